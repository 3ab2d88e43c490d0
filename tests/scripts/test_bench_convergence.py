"""When a curve has reached a level, and the table of it."""

import argparse
import json

from bench_convergence import WAYS, curve, drawn, first_reach, place, table


def write(folder, accuracies):
    tuned = folder / "tuned"
    tuned.mkdir(parents=True)
    rows = [{"step": 10 * number, "eval/accuracy": value} for number, value in enumerate(accuracies)]
    rows.insert(1, {"step": 5, "loss": 0.7})
    (tuned / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tuned / "config.json").write_text(json.dumps({"training": {"batch_size": 16, "accumulation": 2}}))


def test_one_lucky_taking_reaches_nothing(tmp_path):
    write(tmp_path, [0.5, 0.9, 0.5, 0.6, 0.8, 0.8, 0.7])
    found = curve(tmp_path / "tuned" / "metrics.jsonl")
    assert found == [(0, 0.5), (10, 0.7), (20, 0.5), (30, 0.6), (40, 0.6), (50, 0.8), (60, 0.8)]
    assert first_reach(found, 0.8) == 50
    assert first_reach(found, 0.85) is None


def test_the_table_tells_pairs_seed_by_seed(tmp_path):
    for seed, accuracies in enumerate(([0.5, 0.8, 0.8], [0.5, 0.5, 0.5])):
        write(place(tmp_path, "uniform", seed), accuracies)
    args = argparse.Namespace(out=tmp_path, seeds=[0, 1], ways=["uniform"], levels=[0.5, 0.8], exact=[])
    assert table(args)[-1] == "| uniform | 0 (0 0) | - (640 never) | 80.0% 50.0% |"


def test_exact_gains_are_over_the_base(tmp_path):
    write(place(tmp_path, "uniform", 0), [0.5, 0.8])
    drawings = {tmp_path / "base": [0, 1, 0, 1]}
    drawings |= {
        drawn(place(tmp_path, "uniform", 0), step): found for step, found in ((10, [0, 1, 0, 1]), (20, [1, 1, 0, 1]))
    }
    for folder, right in drawings.items():
        folder.mkdir()
        rows = [json.dumps({"parts": {"exact": value}}) for value in right]
        (folder / "results.jsonl").write_text("\n".join(rows))
    args = argparse.Namespace(out=tmp_path, seeds=[0], ways=["uniform"], levels=[0.5], exact=[10, 20], gains=[0.2, 0.3])
    assert table(args)[-1] == "| uniform | 0 (0) | 65.0% | 640 (640) | - (never) | 75.0% |"


def test_every_way_has_a_folder_of_its_own(tmp_path):
    assert len({place(tmp_path, way, 0) for way in WAYS}) == len(WAYS)
