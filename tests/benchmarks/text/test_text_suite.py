"""`bench text` on tiny models: what must be zero, figures by hand, going on, and the command."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from text_samples import language_model, write_jsonl

from diffdpo.benchmarks.text.judges import ScoreJudge
from diffdpo.benchmarks.text.likelihood import Likelihood
from diffdpo.benchmarks.text.suite import RESULTS, Contestants, TextSuite, run_text_suite
from diffdpo.benchmarks.text.summary import perplexities, win_rate
from diffdpo.commands import bench
from diffdpo.commands.language_models import open_likelihood
from diffdpo.data.text.examples import windows
from diffdpo.data.text.tokens import Encoder
from diffdpo.errors import UserError
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.generation import Decoding

PROMPTS, TEXTS = ("tea?", "rain?", "the sea?"), ("tea and rain", "the sea, the sea")
SUITE = TextSuite(PROMPTS, TEXTS, Decoding(max_tokens=12, batch_size=2))


class Flags:
    def flagged(self, texts):
        return ["e" in text for text in texts]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    place = tmp_path_factory.mktemp("models")
    return [language_model(place / name, seed=seed) for name, seed in (("base", 0), ("tuned", 1))]


def opened(folder: Path) -> Likelihood:
    model = CausalLM(str(folder))
    return Likelihood(model, Encoder.of(model.tokenizer, str(folder)))


def run(out: Path, model: Path, baseline: Path, judge: Any = None, **options: Any) -> dict[str, Any]:
    models = Contestants(lambda: opened(model), lambda: opened(baseline), lambda: opened(baseline))
    length = ScoreJudge("length", lambda prompts, answers: [float(len(answer)) for answer in answers])
    return run_text_suite(out, SUITE, models, lambda: judge or length, Flags, settings={"a": 1}, **options)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]


def test_a_model_against_itself_ties_and_has_moved_nowhere(tmp_path, folders):
    found = run(tmp_path / "run", folders[0], folders[0])
    assert found["win_rate"]["ties"] == 3
    assert found["win_rate"]["mean"] == 0.5
    assert found["kl"]["mean"] == 0.0
    assert found["perplexity"]["ratio"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["words"]["difference"]["mean"] == 0.0


def test_a_baseline_that_is_the_reference_is_opened_once(tmp_path, folders):
    asked = []

    def baseline():
        asked.append(1)
        return opened(folders[0])

    length = ScoreJudge("length", lambda prompts, answers: [float(len(answer)) for answer in answers])
    models = Contestants(lambda: opened(folders[1]), baseline, baseline)
    run_text_suite(tmp_path / "run", SUITE, models, lambda: length, Flags, settings={})
    assert len(asked) == 1


def test_figures_are_those_by_hand(tmp_path, folders):
    found = run(tmp_path / "run", folders[1], folders[0])
    rows = rows_of(tmp_path / "run")
    outcomes = [0.5 + math.copysign(0.5, d) * bool(d) for row in rows for d in [row["score"] - row["baseline_score"]]]
    assert [row["outcome"] for row in rows] == outcomes
    answers = json.loads((tmp_path / "run" / "answers" / "00000.json").read_text())
    ids, learnt = answers[0]["ids"], answers[0]["completion"]
    sums = []
    for folder in (folders[1], folders[0]):
        with torch.no_grad():
            logps = opened(folder).model.lm(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(1)
        sums.append(sum(float(logps[t - 1, ids[t]]) for t in range(1, len(ids)) if learnt[t]))
    assert rows[0]["log_ratio"] == pytest.approx(sums[0] - sums[1], abs=1e-3)
    assert found["kl"]["mean"] == pytest.approx(sum(row["log_ratio"] for row in rows) / 3)
    assert rows[0]["flagged"] == ("e" in rows[0]["answer"])
    assert found["flagged"]["prompts"] == pytest.approx(2 / 3)


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_bytes(tmp_path, folders):
    class Failing(ScoreJudge):
        calls = 0

        def compare(self, prompts, ours, theirs):
            Failing.calls += 1
            if Failing.calls == 2:
                raise RuntimeError("stopped")
            return super().compare(prompts, ours, theirs)

    failing = Failing("length", lambda prompts, answers: [float(len(answer)) for answer in answers])
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path / "a", folders[1], folders[0], failing)
    shutil.rmtree(tmp_path / "a" / "answers")  # as if it had been stopped in the middle of all stages
    again = run(tmp_path / "a", folders[1], folders[0])
    assert again == run(tmp_path / "b", folders[1], folders[0])
    assert (tmp_path / "a" / RESULTS).read_bytes() == (tmp_path / "b" / RESULTS).read_bytes()


def test_a_score_that_is_none_stops_the_run_with_its_prompt(tmp_path, folders):
    bad = ScoreJudge("bad", lambda prompts, answers: [math.nan] * len(answers))
    with pytest.raises(UserError, match="judge bad: gave nan to an answer to 'tea"):
        run(tmp_path / "run", folders[0], folders[0], bad)


def test_win_rate_and_perplexity_of_given_figures():
    found = win_rate([1, 1, 0.5, 0])
    assert (found["wins"], found["ties"], found["losses"], found["mean"]) == (2, 1, 1, 0.625)
    ours = [{"logp": -4.0, "tokens": 2}, {"logp": -4.0, "tokens": 4}]
    theirs = [{"logp": -2.0, "tokens": 2}, {"logp": -4.0, "tokens": 4}]
    perplexity = perplexities(ours, theirs)
    assert perplexity["model"] == pytest.approx(math.exp(8 / 6))
    assert perplexity["baseline"] == pytest.approx(math.exp(1))
    assert perplexity["ratio"]["mean"] == pytest.approx(math.exp(0.5))


def call(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    result: dict[str, Any] = bench.run(parser.parse_args(words))
    json.dumps(result, allow_nan=False)
    return result


def test_the_command_measures_and_shows(tmp_path, folders, capsys):
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in (*PROMPTS, "tea?")])
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    (tmp_path / "bad.txt").write_text("# not polite\nsea\n")
    words = ["text", "--model", str(folders[1]), "--baseline", str(folders[0]), "--judge", "words"]
    words += ["--prompts", str(prompts), "--texts", str(texts), "--filter", str(tmp_path / "bad.txt")]
    words += ["--max-tokens", "8", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert call(*words, "--dry-run")["prompts"] == 3
    assert not (tmp_path / "run").exists()
    result = call(*words)
    bench.show(result)
    printed = capsys.readouterr()
    assert "1 of 4 prompts are repeated" in printed.err
    assert "win rate" in printed.out
    assert "prompts flagged: 33.3%" in printed.out
    assert call(*words) == result
    with pytest.raises(UserError, match=r"decoding.max_tokens: there 8, now 9"):
        call(*words, "--max-tokens", "9")


def test_a_long_text_takes_the_memory_of_a_few_pieces(folders, monkeypatch):
    monkeypatch.setattr("diffdpo.benchmarks.text.likelihood.AT_ONCE", 3)
    likelihood, rows = opened(folders[0]), []
    likelihood.model.network.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    long, short = likelihood.texts(["tea and rain " * 60, "tea"])
    assert max(rows) == 3
    assert sum(rows) == math.ceil((60 * 13 - 60) / 95) + 1
    assert (long[1], short[1]) == (60 * 13 + 1, 4)
    pieces = list(windows(likelihood.encoder.document("tea and rain " * 60), 96))
    assert long[0] == pytest.approx(sum(likelihood.sums([[piece]])[0][0] for piece in pieces), abs=1e-3)


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_drawn(tmp_path, folders):
    short = language_model(tmp_path / "short", context=24)
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "tea?"}, {"prompt": "so much tea?"}])
    words = ["text", "--model", str(folders[1]), "--baseline", str(short), "--judge", "words", "--texts", "words"]
    words += ["--prompts", str(prompts), "--max-tokens", "16", "--device", "cpu", "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"prompts.jsonl: line 2: a prompt of 12 tokens and an answer of 16 .* 24 \("):
        call(*words)
    assert not (tmp_path / "run").exists()


def test_a_lora_counts_in_full(tmp_path, folders):
    trained = CausalLM(str(folders[0]), lora_rank=2, lora_alpha=4)
    with torch.no_grad():
        for name, weight in trained.lm.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    trained.export(tmp_path / "lora")
    encoder = Encoder.of(trained.tokenizer, "tiny")
    expected = Likelihood(trained, encoder).texts(TEXTS)
    merged = open_likelihood(str(folders[0]), str(tmp_path / "lora"), "cpu").texts(TEXTS)
    assert [logp for logp, _ in merged] == pytest.approx([logp for logp, _ in expected], abs=1e-3)
    assert abs(merged[0][0] - opened(folders[0]).texts(TEXTS)[0][0]) > 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["text"], "give --baseline"),
        (["text", "--baseline", "words"], "give --judge"),
        (["text", "--steps", "3"], "--steps: not an option of `bench text`"),
        (["text", "--baseline", "words", "--judge", "wrods"], "unknown reward"),
        (["shapes", "--judge", "words"], "--judge: not an option of `bench shapes`"),
        (["truthfulqa"], "--questions FILE"),
        (["text", "--baseline", "words", "--judge", "words", "--lora", "none"], "no adapter_config.json"),
        (["text", "--baseline", "words", "--judge", "words", "--limit", "9999"], "--limit"),
        (["text", "--baseline", "words", "--judge", "words", "--filter", "none.txt"], "none.txt: not a list of words"),
    ],
)
def test_wrong_use_is_told_in_a_line(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        call(*words, "--model", "words", "--out", str(tmp_path / "run"), "--dry-run")
