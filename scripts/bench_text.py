"""Tokens per second of text DPO: packed rows that share prompts, and a head in chunks, against plain padding.

    python scripts/bench_text.py [--batch-size 8] [--rounds 7] [--json FILE]
    python scripts/bench_text.py --model words --data pairs.jsonl

Both ways take the same batches of pairs, in turn within one process; seconds are the processor's, so that other work
on the machine slows neither. Plain is what one would write first: chosen and rejected sequences, each with its prompt,
filled up to the longest of the batch, and the logits of every place. Counted on either side are the same tokens, those
of prompt + chosen and of prompt + rejected, without padding.

Without --data the tokens are random and their numbers follow Anthropic's HH (harmless-base, test, 2,312 pairs) as
SmolLM2's tokenizer counts them: see PROMPT and ANSWER. Without --model the model is a Llama of 33M random weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
PROMPT = (12, 17, 19, 25, 48, 73, 98, 123, 152, 192, 273, 348, 542, 835)
ANSWER = (1, 7, 10, 14, 19, 25, 31, 41, 53, 69, 99, 129, 224, 557)
"""Tokens of HH's prompts and answers (end token included) that this share of them has at most."""

BETA = 0.1
LONGEST = 1024
"""Tokens of prompt and answer; of HH's test pairs none is longer."""


class Side(NamedTuple):
    """One way to do the work; both return what the other must return too."""

    reference: Callable[[Sequence[int]], Any]
    """Pairs -> log pi_ref of their answers, chosen ones first, [2B]."""
    step: Callable[[Sequence[int], Any], Any]
    """Pairs and those -> the loss, after the backward pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens per second of text DPO against plain padding.")
    parser.add_argument("--model", default="random", help="a folder, hub name or .gguf file (default: random weights)")
    parser.add_argument("--data", metavar="FILE", help="preference pairs, such as HH as published (default: random)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="PAIRS")
    parser.add_argument("--rounds", type=int, default=7, help="batches, the first of which only warms up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    figures = measure(args)
    show(figures)
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        text = json.dumps({"settings": settings, "torch": torch.__version__, **figures}, indent=2)
        args.json.write_text(text + "\n", encoding="utf-8")


def show(figures: dict[str, Any]) -> None:
    print(f"{figures['parameters'] / 1e6:.1f}M parameters, {figures['tokens']} tokens in {figures['pairs']} pairs")
    print(f"{'':<16} {'packed':>14} {'padded':>14} {'ratio':>7} {'ratios':>15}")
    for part in ("reference", "step", "both"):
        row = figures[part]
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        print(f"{part:<16} {row['packed']:>8.0f} tok/s {row['padded']:>8.0f} tok/s {row['ratio']:>7.2f} {spread:>15}")
    peaks = figures["peak_mb"]
    print(f"{'peak of a step':<16} {peaks['packed']:>11.0f} MB {peaks['padded']:>11.0f} MB")
    print(f"largest difference of a loss: {figures['largest_gap']:.1e}, losses {figures['losses']}")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds of tokens per second and of the ratio; memory of the round's largest batch."""
    model, reference, examples = setting(args)
    sides = {"packed": packed(model, reference, examples), "padded": padded(model, reference, examples)}
    size = args.batch_size
    batches = [range(first, first + size) for first in range(0, size * args.rounds, size)]
    tokens = [sum(len(answer.ids) for row in batch for answer in examples[row].answers) for batch in batches]
    seconds: dict[str, dict[str, list[float]]] = {part: {side: [] for side in sides} for part in ("reference", "step")}
    losses: dict[str, list[float]] = {side: [] for side in sides}
    for number, batch in enumerate(batches):
        for name in sorted(sides, reverse=bool(number % 2)):
            table, took = timed(partial(sides[name].reference, batch))
            seconds["reference"][name].append(took)
            loss, took = timed(partial(sides[name].step, batch, table))
            seconds["step"][name].append(took)
            losses[name].append(float(loss))
        print(f"round {number + 1} of {len(batches)}", file=sys.stderr)
    seconds["both"] = {
        side: [a + b for a, b in zip(seconds["reference"][side], seconds["step"][side], strict=True)] for side in sides
    }
    largest = max(batches, key=lambda batch: max(len(a.ids) for row in batch for a in examples[row].answers))
    return {
        "parameters": sum(weight.numel() for weight in model.lm.parameters()),
        "pairs": size * (args.rounds - 1),
        "tokens": sum(tokens[1:]),
        "losses": [round(loss, 4) for loss in losses["packed"]],
        "largest_gap": max(abs(a - b) for a, b in zip(*losses.values(), strict=True)),
        "peak_mb": {name: peak_mb(side, largest) for name, side in sides.items()},
        **{part: compared(times, tokens) for part, times in seconds.items()},
    }


def compared(times: dict[str, list[float]], tokens: Sequence[int]) -> dict[str, Any]:
    """Without the first round, in which memory is asked for."""
    speeds = {
        side: statistics.median(n / took for n, took in zip(tokens[1:], some[1:], strict=True))
        for side, some in times.items()
    }
    ratios = [plain / own for own, plain in zip(times["packed"][1:], times["padded"][1:], strict=True)]
    return {**speeds, "ratio": statistics.median(ratios), "ratios": ratios}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Seconds of the processor, of all threads: other work on the machine takes none of them."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def peak_mb(side: Side, rows: Sequence[int]) -> float:
    """The most that the tensors of a step take at a time, weights and their gradients aside: counted, not sampled."""
    from torch.profiler import ProfilerActivity, profile

    table = side.reference(rows)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        side.step(rows, table)
    now = most = 0
    events: Any = found.profiler
    for event in sorted(events.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 1e6


def setting(args: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """The model, a reference that differs from it a little, so that the loss says something, and the pairs."""
    import torch

    from diffdpo.models.text.causal_lm import CausalLM
    from diffdpo.words.weights import resolve_model

    folder = resolve_model(args.model) if args.model != "random" else None
    model: Any = CausalLM(folder) if folder else random_model()
    n = args.batch_size * args.rounds
    examples = published(args.data, model, n) if args.data else drawn(n, args.seed)
    reference = copy.deepcopy(model.network)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1 + 0.02 * torch.randn_like(weight))
    return model, reference.requires_grad_(False), examples


def random_model() -> Any:
    """A network without a tokenizer, as wide and as deep as small language models are."""
    from types import SimpleNamespace

    from transformers import LlamaConfig, LlamaForCausalLM

    from diffdpo.models.text.causal_lm import LogProbs

    config = LlamaConfig(
        vocab_size=49152, hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=2 * LONGEST, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    lm = LlamaForCausalLM(config).eval()
    return SimpleNamespace(lm=lm, network=LogProbs(lm))


def drawn(n: int, seed: int) -> list[Any]:
    """Pairs of random tokens, as long as HH's."""
    import numpy as np

    from diffdpo.data.text.examples import Example
    from diffdpo.data.text.tokens import Tokens

    rng = np.random.default_rng(seed)

    def length(quantiles: Sequence[int]) -> int:
        return int(np.interp(rng.random(), SHARES, quantiles))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(3, 49152, count).tolist())

    found = []
    for number in range(n):
        prompt = tokens(length(PROMPT))
        answers = [tokens(max(2, length(ANSWER))) for _ in range(2)]
        both = [Tokens((*prompt, *ids), (*[False] * len(prompt), *[True] * len(ids))) for ids in answers]
        found.append(Example(f"pair {number}", str(number), tuple(both), (1, 2)))
    return found


def published(path: str, model: Any, n: int) -> list[Any]:
    """`n` pairs of a file, picked evenly over it."""
    from diffdpo.data.text.examples import Limits, examples
    from diffdpo.data.text.readers import open_text
    from diffdpo.data.text.tokens import Encoder

    encoder = Encoder.of(model.tokenizer, model.path)
    limits = Limits(min(LONGEST, model.context or LONGEST))
    found, count = examples(open_text(path).records, "pairs", encoder, limits)
    print(count.told(), file=sys.stderr)
    if len(found) < n:
        sys.exit(f"{path}: {len(found)} pairs, and the rounds need {n}")
    return found[:: len(found) // n][:n]


def packed(model: Any, reference: Any, examples: Sequence[Any]) -> Side:
    """The recipe of `method: dpo` with `data.packing: true`."""
    import torch

    from diffdpo.config import TextDpoLossConfig
    from diffdpo.models.text.causal_lm import completion_logps
    from diffdpo.training.text.dpo import TextDpo, judge

    loss = TextDpoLossConfig(beta=BETA)
    options: dict[str, Any] = {"filler": 0, "packed": True, "loss": loss, "reference": None}
    recipe = TextDpo(model.network, examples, range(len(examples)), (), **options)

    @torch.no_grad()
    def ask(rows: Sequence[int]) -> Any:
        return completion_logps(reference, recipe.batch(rows)).sums

    def step(rows: Sequence[int], table: Any) -> Any:
        model.lm.zero_grad()
        found = judge(loss, completion_logps(model.network, recipe.batch(rows)), table).loss.mean()
        torch.autograd.backward(found)
        return found.detach()

    return Side(ask, step)


def padded(model: Any, reference: Any, examples: Sequence[Any]) -> Side:
    """The whole of it in a few lines, with nothing of ours but the loss."""
    import torch

    from diffdpo.losses import preference_loss

    def sums(lm: Any, rows: Sequence[int]) -> Any:
        sequences = [examples[row].answers[place] for place in range(2) for row in rows]
        shape = len(sequences), max(len(tokens.ids) for tokens in sequences)
        ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        learnt = torch.zeros(shape)
        for row, tokens in enumerate(sequences):
            n = len(tokens.ids)
            ids[row, :n], mask[row, :n] = torch.tensor(tokens.ids), 1
            learnt[row, :n] = torch.tensor(tokens.completion, dtype=torch.float32)
        logits = lm(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return (logps * learnt[:, 1:]).sum(1)

    @torch.no_grad()
    def ask(rows: Sequence[int]) -> Any:
        return sums(reference.lm, rows)

    def step(rows: Sequence[int], table: Any) -> Any:
        model.lm.zero_grad()
        chosen, rejected = (sums(model.lm, rows) - table).chunk(2)
        loss = preference_loss(chosen, rejected, beta=BETA).loss.mean()
        torch.autograd.backward(loss)
        return loss.detach()

    return Side(ask, step)


if __name__ == "__main__":
    main()
