"""Points of the frontier: what is measured of a policy, averages over seeds, table and plot."""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from ppo_samples import ending_model

from diffdpo.benchmarks.frontier.measure import draw, plain_text_losses
from diffdpo.benchmarks.frontier.plot import frontier_plot
from diffdpo.benchmarks.frontier.points import Measured, comma_separated, markdown, point, points, tax
from diffdpo.models.text.causal_lm import CausalLM

PROMPTS = ["0: tea?", "1: rain?", "2: bread and butter?"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[CausalLM, CausalLM]:
    folder = tmp_path_factory.mktemp("lm")
    return tuple(CausalLM(str(ending_model(folder / str(bias), bias))) for bias in (3, 2))


def lengths(prompts, answers):
    return [float(len(answer)) for answer in answers]


def test_the_kl_is_the_difference_of_log_likelihoods(models):
    policy, reference = models
    drawn = draw(policy, reference, PROMPTS, lengths, draws=2, max_tokens=20)
    assert drawn.rewards == [float(len(text)) for text in drawn.texts]
    assert len(drawn.texts) == 6
    assert any(abs(kl) > 0.1 for kl in drawn.kls)
    own = draw(policy, policy, PROMPTS, lengths, draws=2, max_tokens=20)
    assert own.texts == drawn.texts
    assert own.kls == pytest.approx([0.0] * 6, abs=1e-4)
    # The end token is more likely under the policy, all else less: what the biases say of one that ends at once.
    lm, ref = policy.lm, reference.lm
    ids = policy.tokenizer(PROMPTS[0])["input_ids"]
    with torch.no_grad():
        mine, theirs = (model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)[2] for model in (lm, ref))
    assert 0 < float(mine - theirs) < 1.01


def test_a_texts_loss_is_the_mean_over_its_tokens(models):
    model, text = models[0], "to the sea"
    ids = torch.tensor([[2, *model.tokenizer(text)["input_ids"], 2]])  # of GPT-2 the end token starts, too
    with torch.no_grad():
        logps = model.lm(ids).logits[0].double().log_softmax(-1)
    expected = -logps[:-1].gather(1, ids[0, 1:, None]).mean().item()
    assert plain_text_losses(model, ["a longer text than that", text])[1] == pytest.approx(expected, abs=1e-5)


def measured(method: str = "ppo", setting: str = "kl_coef 0.1", seed: int = 0) -> Measured:
    values = np.random.default_rng(seed).normal(size=40)
    sizes = abs(values).tolist()
    return Measured(method, setting, seed, values.tolist(), sizes, sizes, 9, 1)


def test_a_prompt_is_averaged_over_the_seeds_first():
    runs = [measured(seed=seed) for seed in range(3)]
    found = point(runs)
    means = np.mean([run.rewards for run in runs], axis=0)
    assert found.reward.mean == pytest.approx(means.mean())
    assert found.reward.interval.low < means.mean() < found.reward.interval.high
    assert found.perplexity.mean == pytest.approx(math.exp(np.mean([run.losses for run in runs])))
    assert found.seeds == 3


def test_the_tax_is_a_ratio_of_perplexities():
    plain, ptx = measured(), measured("ppo-ptx", seed=1)
    expected = math.exp(np.mean(ptx.losses) - np.mean(plain.losses))
    assert tax([plain], [ptx]).mean == pytest.approx(expected)
    assert tax([plain], [plain]).interval.low == tax([plain], [plain]).interval.high == 1.0


def test_runs_are_read_back_as_they_were_written(tmp_path: Path):
    measured().write(tmp_path / "run.json")
    assert Measured.read(tmp_path / "run.json") == measured()


def test_table_and_plot_have_every_point():
    best = Measured("best of n", "n 4", 0, [1.0, 2.0], [0.64, 0.64], [], 8.0, 1.0)
    found = points([measured(), measured(seed=1), measured(setting="kl_coef 0.2"), best])
    lines = list(markdown(found))
    assert len(lines) == 2 + 3
    assert lines[2].startswith("| ppo | kl_coef 0.1 | ")
    assert ", ".join(f"{np.mean(measured(seed=seed).rewards):.2f}" for seed in (0, 1)) in lines[2]
    assert "|  | 0.64 |  | 8.0 | 100.0% |" in lines[4]
    rows = list(csv.DictReader(comma_separated(found).splitlines()))
    assert [row["method"] for row in rows] == ["ppo", "ppo", "best of n"]
    assert rows[2]["perplexity"] == ""
    drawing = ET.fromstring(frontier_plot(found))
    circles = [node for node in drawing.iter() if node.tag.endswith("circle") and len(node)]
    assert len(circles) == 3
    assert sorted(node[0].text for node in circles)[0] == "best of n n 4"
