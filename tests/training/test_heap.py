"""What a step frees is there for the next one, without the system; and afterwards the system has it back."""

import json
import subprocess
import sys
import threading

import pytest
import torch

from diffdpo.training import heap
from diffdpo.training.heap import freed_memory_kept

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PROGRAM = """
import json, resource, torch
from diffdpo.training.heap import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = [faults(), faults()]
with freed_memory_kept(torch.device("cpu")):
    kept = [faults() for _ in range(20)]  # until the heap's small pieces lie where they disturb no large one
    held = resident()
print(json.dumps({"usual": usual[1], "kept": kept[-1], "given_back": held - resident()}))
"""

glibc = pytest.mark.skipif(heap._glibc() is None, reason="no glibc here, or its variables are set")


@glibc
def test_memory_is_used_again_and_given_back_at_the_end():
    """In a process of its own, whose heap nobody has used. The system clears pages of a large tensor, or need not."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert 4 * found["kept"] < found["usual"]
    assert found["given_back"] > 30 << 20


@pytest.fixture
def told(monkeypatch):
    """What glibc is told."""
    values = []
    monkeypatch.setattr(heap, "_set", lambda libc, given: values.append(given))
    return values


@glibc
def test_an_error_ends_it_too(told):
    with pytest.raises(ValueError, match="in a step"), freed_memory_kept(CPU):
        raise ValueError("in a step")
    assert told == [heap._KEPT, heap._USUAL]


@glibc
def test_the_last_of_several_ends_it(told):
    with freed_memory_kept(CPU):
        with freed_memory_kept(CPU):
            pass
        assert told == [heap._KEPT]
    assert told == [heap._KEPT, heap._USUAL]


def test_a_gpu_is_left_alone(told):
    with freed_memory_kept(GPU):
        pass
    assert told == []


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")]
)
def test_who_has_set_glibc_s_own_variables_is_left_alone(name, value, monkeypatch, told):
    monkeypatch.setenv(name, value)
    with freed_memory_kept(CPU):
        pass
    assert told == []


@glibc
def test_other_threads_find_memory_too():
    """More than an arena of theirs holds, for which glibc has to turn to the system after all."""
    found = []

    def work() -> None:
        found.extend(int(torch.ones(200 << 20, dtype=torch.uint8)[-1]) for _ in range(2))

    with freed_memory_kept(CPU):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [1, 1]
