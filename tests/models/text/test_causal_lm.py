"""Log-probabilities of answers against a plain computation over whole logits; loading and export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_samples import language_model
from torch import Tensor

from diffdpo.data.text.batch import TextBatch, pad
from diffdpo.data.text.tokens import Tokens
from diffdpo.errors import UserError
from diffdpo.models.text.causal_lm import CausalLM, completion_logps
from diffdpo.models.text.output_head import chunked_logps
from diffdpo.models.text.reward_model import RewardModel

FAMILIES = ("llama", "gpt2")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    return language_model(tmp_path_factory.mktemp("lm") / request.param, request.param)


def sequences(n: int, seed: int = 0) -> list[Tokens]:
    """Random tokens of many lengths; end tokens and the pad token's id occur among them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in torch.randint(4, 40, (n,), generator=generator).tolist():
        ids = torch.randint(0, 40, (length,), generator=generator).tolist()
        boundary = int(torch.randint(1, length, (1,), generator=generator))
        found.append(Tokens(tuple(ids), tuple(place >= boundary for place in range(length))))
    return found


def plain(lm: torch.nn.Module, tokens: Tokens) -> float:
    """sum of log softmax(logits[t - 1])[ids[t]] over the answer, of one sequence alone, in float64."""
    ids = torch.tensor(tokens.ids)[None]
    with torch.no_grad():
        logps = lm(input_ids=ids).logits[0].double().log_softmax(1)
    return sum(float(logps[t - 1, ids[0, t]]) for t in range(ids.shape[1]) if tokens.completion[t])


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_padding_and_no_neighbour_moves_a_log_probability(folder, side):
    model = CausalLM(str(folder))
    some = sequences(8)
    found = completion_logps(model.network, pad(some, 0, side))
    expected = torch.tensor([plain(model.lm, tokens) for tokens in some])
    torch.testing.assert_close(found.sums, expected, atol=1e-4, rtol=1e-5)
    assert found.counts.tolist() == [tokens.n_completion for tokens in some]
    alone = torch.cat([completion_logps(model.network, pad([tokens], 0)).sums for tokens in some])
    torch.testing.assert_close(found.sums / found.counts, alone / found.counts, atol=1e-5, rtol=0)


def test_tokens_outside_of_the_answer_count_nothing(folder):
    model = CausalLM(str(folder))
    batch = pad(sequences(3), 0)
    tokens = model.network(*batch)
    assert (tokens[~batch.completion] == 0).all()
    assert (tokens[batch.completion] < 0).all()
    halved = model.network(*batch, temperature=2.0)
    logits = model.lm(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, :-1] / 2
    expected = logits.log_softmax(2).gather(2, batch.ids[:, 1:, None])[..., 0]
    chosen = batch.completion[:, 1:]
    torch.testing.assert_close(halved[:, 1:][chosen], expected[chosen], atol=1e-4, rtol=1e-5)


def test_a_lora_changes_nothing_at_first_and_its_reference_nothing_later(folder):
    base, model = CausalLM(str(folder)), CausalLM(str(folder), lora_rank=4, lora_alpha=8)
    batch = pad(sequences(4), 0)
    before = completion_logps(base.network, batch).sums
    assert torch.equal(completion_logps(model.network, batch).sums, before)
    reference = model.reference()
    for parameter in model.network.parameters():
        parameter.data += 0.1 * parameter.requires_grad
    assert not torch.allclose(completion_logps(model.network, batch).sums, before, atol=0.1)
    assert torch.equal(completion_logps(reference, batch).sums, before)


def test_a_copied_reference_stays(folder):
    model = CausalLM(str(folder))
    batch = pad(sequences(4), 0)
    reference, before = model.reference(), completion_logps(model.network, batch).sums
    for parameter in model.network.parameters():
        parameter.data *= 1.1
    assert torch.equal(completion_logps(reference, batch).sums, before)


def test_the_export_opens_in_transformers_and_peft(folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    batch = pad(sequences(2), 0)

    def logits(lm: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return lm.eval()(input_ids=batch.ids[:, :4]).logits

    whole = CausalLM(str(folder))
    weights = [parameter.detach() * 1.1 for parameter in whole.network.parameters()]
    before = logits(whole.lm)
    whole.export(tmp_path / "model", weights)
    assert torch.equal(logits(whole.lm), before)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(opened.parameters(), weights, strict=True))
    assert opened.config.use_cache
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("to")["input_ids"] == whole.tokenizer("to")["input_ids"]
    lora = CausalLM(str(folder), lora_rank=2)
    for parameter in lora.network.parameters():
        parameter.data += 0.1 * parameter.requires_grad
    lora.export(tmp_path / "lora")
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tmp_path / "lora"
    )
    torch.testing.assert_close(logits(again), logits(lora.lm), atol=1e-5, rtol=1e-5)


def test_checkpointed_gradients_are_the_same(folder):
    batch = pad(sequences(3), 0)
    norms = []
    for checkpointing in (False, True):
        model = CausalLM(str(folder))
        if checkpointing:
            model.enable_gradient_checkpointing()
        completion_logps(model.network, batch).sums.sum().backward()
        norms.append([parameter.grad.norm() for parameter in model.network.parameters()])
    torch.testing.assert_close(*norms)


def test_residual_dropout_works_in_training_alone(folder):
    batch = pad(sequences(2), 0)
    plain_model, model = CausalLM(str(folder)), CausalLM(str(folder), dropout=0.2)
    before = completion_logps(plain_model.network, batch).sums
    assert torch.equal(completion_logps(model.network, batch).sums, before)
    model.network.train()
    assert not torch.allclose(completion_logps(model.network, batch).sums, before)
    plain_model.network.train()  # no dropout of the family's own is left
    assert torch.equal(completion_logps(plain_model.network, batch).sums, before)


@pytest.mark.parametrize("bias", [False, True])
def test_the_chunked_head_is_a_log_softmax_with_its_gradients(bias):
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (23, 11))
    offset = torch.randn(11, dtype=torch.float64, requires_grad=True) if bias else None
    targets, outer = torch.randint(11, (23,)), torch.randn(23, dtype=torch.float64)
    found = chunked_logps(hidden, weight, offset, targets, lambda z: 3 * torch.tanh(z / 3), chunk=5)
    logits = 3 * torch.tanh((hidden @ weight.T + (0 if offset is None else offset)) / 3)
    expected = logits.log_softmax(1)[range(23), targets]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    inputs = [hidden, weight, *([offset] if offset is not None else [])]
    for a, b in zip(
        torch.autograd.grad(found, inputs, outer), torch.autograd.grad(expected, inputs, outer), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_the_chunked_head_sums_its_gradient_in_float32():
    """512 chunks each add 2^-9 of the whole: in bf16 the sum would stop growing."""
    hidden = torch.ones(512, 4, dtype=torch.bfloat16)
    weight = torch.zeros(2, 4, requires_grad=True)
    chunked_logps(hidden, weight, None, torch.zeros(512, dtype=torch.int64), lambda z: z, chunk=1).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[256.0], [-256.0]]).expand(2, 4))


def test_a_reward_is_read_at_the_last_real_token(folder):
    from transformers import AutoModel

    model = RewardModel(str(folder))
    model.shift(0.25)
    some = sequences(6)
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32)
    for side in ("left", "right"):
        batch: TextBatch = pad(some, 0, side)
        with torch.no_grad():
            found, values = model.network(batch.ids, batch.mask), model.network.values(batch.ids, batch.mask)
            states = [backbone(input_ids=torch.tensor(tokens.ids)[None]).last_hidden_state[0, -1] for tokens in some]
        expected = torch.stack(states) @ model.network.head.weight[0].detach() + 0.25
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        last = batch.mask.long().cumsum(1).argmax(1)
        torch.testing.assert_close(values[range(6), last], found)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_reward_model_opens_from_its_export(folder, tmp_path, rank):
    model = RewardModel(str(folder), lora_rank=rank)
    for parameter in model.network.parameters():
        parameter.data += 0.05 * parameter.requires_grad
    model.shift(-1.5)
    model.export(tmp_path / "reward")
    batch = pad(sequences(3), 0)
    opened = RewardModel(str(tmp_path / "reward"))
    torch.testing.assert_close(
        opened.network(batch.ids, batch.mask), model.network(batch.ids, batch.mask), atol=1e-4, rtol=1e-4
    )


def test_a_fresh_head_has_the_spread_of_the_paper(folder):
    weight = torch.cat([RewardModel(str(folder), seed=seed).network.head.weight[0] for seed in range(12)])
    assert weight.std().item() == pytest.approx(33**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("path", "message"),
    [("./none", "no such folder"), ("empty", "not a language model"), ("file.bin", "of single files only")],
)
def test_what_is_no_model_is_said_in_a_line(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.bin").touch()
    with pytest.raises(UserError, match=rf"model.path: {path}: {message}") as error:
        CausalLM(path)
    assert "\n" not in str(error.value)


def test_a_head_that_is_not_understood_is_refused(folder, monkeypatch):
    """Wrong likelihoods would train silently."""
    from transformers import AutoModelForCausalLM

    lm = type(AutoModelForCausalLM.from_pretrained(folder))
    forward = lm.forward

    def changed(self, *args, **keywords):
        output = forward(self, *args, **keywords)
        output.logits = output.logits * 3
        return output

    monkeypatch.setattr(lm, "forward", changed)
    with pytest.raises(UserError, match="makes its logits in a way that is not known here"):
        CausalLM(str(folder))
