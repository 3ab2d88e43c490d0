"""Alarms come when they should, once, and again the same way in a run that goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from diffdpo.training import loop
from diffdpo.training.alarms import Alarms
from diffdpo.training.image.dpo import DiffusionDpo
from diffdpo.training.image.runner import run_images
from diffdpo.training.symptoms import LOGS, rising


def heard(key: str, values: list[float], steps: int = 30) -> list[tuple[int, str]]:
    alarms = Alarms(steps)
    return [(step, name) for step, value in enumerate(values, 1) for name in alarms.hear(step, {key: value})]


def test_a_rising_winner_error_is_told_once():
    assert [name for _, name in heard("error/chosen_vs_ref", [0.001 * step for step in range(30)])] == ["winner_error"]


@pytest.mark.parametrize(
    "values",
    [[-0.001 * step for step in range(30)], [0.001 * step - 1 for step in range(30)], [0.01] * 30, [0.01, 0.02]],
    ids=["falling", "below the reference", "flat", "short"],
)
def test_other_winner_errors_are_none(values):
    assert heard("error/chosen_vs_ref", values) == []


def test_noise_alone_hardly_ever_rises():
    noise = random.Random(0)
    found = sum(rising([1 + noise.gauss(0, 0.3) for _ in range(12)]) for _ in range(2000))
    assert found < 40


@pytest.mark.parametrize("key", ["rewards/accuracies", "accuracy"])
def test_an_accuracy_of_a_coin_is_told_after_a_third(key):
    values = [0.0] + [0.5 + 0.01 * (-1) ** step for step in range(29)]
    assert heard(key, values) == [(11, "accuracy")]


@pytest.mark.parametrize("values", [[0.65] * 30, [0.5] * 8 + [0.7] * 22, [0.3, 0.8] * 15])
def test_a_fair_or_unclear_accuracy_is_not(values):
    assert heard("rewards/accuracies", values) == []


def test_an_alarm_that_was_over_is_told_again():
    up, down = [0.01 * step for step in range(1, 21)], [-0.01] * (4 * LOGS)
    found = heard("error/chosen_vs_ref", [*up, *down, *up], steps=90)
    assert [name for _, name in found] == ["winner_error", "winner_error"]
    assert found[0][0] <= len(up) < len(up) + len(down) < found[1][0]


def test_an_alarm_that_is_quiet_for_a_moment_is_not_told_again():
    values = [0.01 * step for step in range(1, 60)]
    values[30] = -0.01
    assert len(heard("error/chosen_vs_ref", values, steps=60)) == 1


@pytest.mark.parametrize("name", ["saturation", "contrast"])
@pytest.mark.parametrize("way", [1, -1])
def test_a_look_that_drifts_is_told_at_the_second_grid(name, way):
    assert heard(f"drift/{name}", [0.1, 0.26 * way, 0.26 * way, 0.5 * way]) == [(3, name)]
    assert heard(f"drift/{name}", [0.3 * way, 0.1, 0.3 * way, 0.24 * way]) == []
    again = heard(f"drift/{name}", [0.3 * way, 0.3 * way, 0.0, 0.0, 0.3 * way, 0.3 * way])
    assert again == [(2, name), (6, name)]


def told_of_scores(scores: list[float], accuracies: list[float]) -> list[str]:
    """Two logged lines, then a grid, and so on."""
    alarms, found = Alarms(1000), []
    lines = iter(accuracies)
    for number, score in enumerate(scores):
        for _ in range(2 if number else 0):
            found += alarms.hear(number, {"rewards/accuracies": next(lines)})
        found += alarms.hear(number, {"samples/pickscore": score})
    return found


RISING = [0.60 + 0.02 * number for number in range(10)]


@pytest.mark.parametrize(
    ("scores", "accuracies", "alarm"),
    [
        ([20.0, 19.9, 19.8, 19.7], RISING, True),
        ([20.0, 20.5, 20.4, 20.1, 19.9], RISING, True),
        ([20.0, 20.9, 20.7, 20.5, 20.3], RISING, False),
        ([20.0, 19.9, 20.1, 19.8, 19.7], RISING, False),
        ([20.0, 19.9, 19.8, 19.7], RISING[::-1], False),
        ([20.0, 19.9], RISING, False),
    ],
    ids=["falls", "rises first", "still above the base", "up and down", "accuracy falls too", "short"],
)
def test_a_score_that_falls_while_the_accuracy_rises_is_told(scores, accuracies, alarm):
    assert told_of_scores(scores, accuracies) == (["score/pickscore"] if alarm else [])


def test_skipped_steps_are_told_once_while_they_go_on():
    assert heard("skipped", [1, 1, 2, 3, 3, 4]) == [(1, "skipped")]
    assert heard("skipped", [1] * (LOGS + 1) + [2]) == [(1, "skipped"), (LOGS + 2, "skipped")]


def test_every_alarm_says_which_key_to_turn():
    alarms = Alarms(10)
    alarms.hear(0, {"samples/pickscore": 20.0})
    assert len(alarms.symptoms) == 6
    assert all("training." in symptom.words or "loss." in symptom.words for symptom in alarms.symptoms.values())


def test_a_run_names_an_alarm_in_its_metrics_and_goes_on_the_same(make_config, tmp_path, monkeypatch, capsys):
    plain = DiffusionDpo.loss

    def rising_loss(self, network, examples):
        value, figures = plain(self, network, examples)
        error = figures["error/chosen_vs_ref"] * 0 + 100 * examples[0][1] + 1  # by epoch
        return value, {**figures, "error/chosen_vs_ref": error}

    monkeypatch.setattr(DiffusionDpo, "loss", rising_loss)
    changes = {"training__steps": 40, "training__log_every": 1, "training__checkpoint_every": 20}
    changes["training__batch_size"] = 1
    whole, stopped = (make_config(output=str(tmp_path / name), **changes) for name in ("whole", "stopped"))
    run_images(whole)
    assert "alarm at step" in capsys.readouterr().err
    step = loop._Training._step

    def dying(self, number):
        if number == 35:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(stopped)
    run_images(stopped)
    assert alarmed(whole.output) == alarmed(stopped.output)
    assert [name for _, name in alarmed(whole.output)].count("alarm/winner_error") == 1


def alarmed(folder: str) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], key) for row in rows for key in row if key.startswith("alarm/")]
