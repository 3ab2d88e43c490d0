"""What a step frees is there for the next one, without the system; and afterwards the system has it back."""

import resource
import threading

import pytest
import torch

from diffdpo.training.heap import _glibc, freed_memory_kept

CPU = torch.device("cpu")
BYTES = 40 << 20
"""More than glibc ever keeps by itself."""
UNTIL_STEADY = 20
"""Times until the heap's small pieces lie where they disturb no large one."""

glibc = pytest.mark.skipif(_glibc() is None, reason="no glibc here, or its variables are set")


def faults() -> int:
    """Pages that the system had to clear for a large tensor which is freed at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BYTES, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@glibc
def test_memory_is_used_again_and_given_back_at_the_end():
    faults()
    usual = faults()
    with freed_memory_kept(CPU):
        found = [faults() for _ in range(UNTIL_STEADY)]
        assert 4 * found[-1] < usual
        held = resident()
    assert resident() < held - BYTES // 2
    assert 2 * faults() > usual


@glibc
def test_an_error_leaves_nothing_behind():
    usual = faults()
    with pytest.raises(ValueError, match="in a step"), freed_memory_kept(CPU):
        raise ValueError("in a step")
    assert 2 * faults() > usual


@glibc
def test_other_threads_find_memory_too():
    found = []
    with freed_memory_kept(CPU):
        thread = threading.Thread(target=lambda: found.append(torch.ones(BYTES, dtype=torch.uint8).sum()))
        thread.start()
        thread.join()
    assert found == [BYTES]


@glibc
def test_a_gpu_is_left_alone():
    usual = faults()
    with freed_memory_kept(torch.device("cuda")):
        assert 2 * faults() > usual


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")]
)
def test_who_has_set_glibc_s_own_variables_is_left_alone(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    usual = faults()
    with freed_memory_kept(CPU):
        assert 2 * faults() > usual
