"""Prompts to a folder of answers: drawn from a language model, and picked or ranked by a reward."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffdpo.data.text.records import Prompt, Reward, prompt_text
from diffdpo.errors import UserError
from diffdpo.progress import progress
from diffdpo.runs import claimed, write_bytes

if TYPE_CHECKING:
    from diffdpo.data.text.tokens import Encoder
    from diffdpo.models.text.causal_lm import CausalLM
    from diffdpo.models.text.generation import Answer, Decoding

Keep = Literal["all", "best", "ranking"]

SHARD = 256
"""Prompts of a file; what is drawn and written together."""
_FILES = "answers-*.jsonl"


@dataclass(frozen=True)
class Request:
    """What is asked of a model.

    Attributes:
        answers: per prompt.
        keep: all of them; the one with the highest reward, of those that ended where any did; or those that ended as a
            ranking by their rewards, to learn from.
    """

    answers: int = 1
    keep: Keep = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise UserError(f"--answers {self.answers}: at least 1 for every prompt")
        if self.keep == "ranking" and self.answers < 2:
            raise UserError(f"--answers {self.answers}: a ranking needs at least 2")

    @property
    def rows(self) -> int:
        """Lines per prompt."""
        return self.answers if self.keep == "all" else 1


def best(scores: Sequence[float]) -> int:
    """The place of the highest score, the first of equal ones.

    Raises:
        UserError: one is no number.
    """
    return max(range(len(scores)), key=lambda place: (_number(scores[place]), -place))


def ranks(scores: Sequence[float]) -> list[int]:
    """1 for the highest score; equal ones share a rank.

    Raises:
        UserError: one is no number.
    """
    order = sorted({_number(score) for score in scores}, reverse=True)
    return [order.index(score) + 1 for score in scores]


def _number(score: float) -> float:
    if score != score:
        raise UserError(f"the reward gave {score} for an answer; a score must be a number")
    return score


def answer_folder(
    prompts: Sequence[Prompt],
    out: str | Path,
    writer: Callable[[], Writer],
    request: Request,
    settings: Mapping[str, Any],
    inputs: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write `answers-00000.jsonl` and so on. A line is an answer: `prompt`, `completion`, `ended`, and `reward` where
    there is one; or a ranking: `prompt`, `answers`, `ranks`. The folder can be trained on. Started again it writes what
    is missing.

    Returns:
        `out`, `lines`, and `unended`: how many of the lines are answers that did not end; or how many answers are in no
        ranking, since they did not end or no other one did.

    Args:
        writer: opens the model; not called where nothing is missing.
        settings: all that decides an answer beside the prompt and the request.

    Raises:
        UserError: `out` holds something else or was made with other settings.
    """
    out = Path(out)
    with claimed(out, "generate", folder_settings(prompts, request, settings), inputs, products=(_FILES,)) as run:
        unfinished = run.state != "complete"
        if unfinished:
            _write_missing(_numbered(prompts, request.answers), out, writer, request)
        counted = _counted(out, len(prompts) * request.answers, request)
        if unfinished:
            run.finish(counted)
    return {"out": str(out), **counted}


def _counted(out: Path, drawn: int, request: Request) -> dict[str, int]:
    rows = []
    for file in out.glob(_FILES):
        with file.open(encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    if request.keep == "ranking":
        return {"lines": len(rows), "unended": drawn - sum(len(row["answers"]) for row in rows)}
    return {"lines": len(rows), "unended": sum(not row["ended"] for row in rows)}


def folder_settings(prompts: Sequence[Prompt], request: Request, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a folder of answers."""
    digest = hashlib.sha256("\x1f".join(map(prompt_text, prompts)).encode()).hexdigest()
    return {**settings, **asdict(request), "prompts": {"n": len(prompts), "sha256": digest}}


class Writer:
    """A language model that answers, and the reward that its answers are given, if any."""

    def __init__(self, model: CausalLM, encoder: Encoder, decoding: Decoding, reward: Reward | None = None) -> None:
        self.model, self.encoder, self.decoding, self.reward = model, encoder, decoding, reward

    def __call__(self, asked: Sequence[tuple[Prompt, int]], seed: int) -> list[dict[str, Any]]:
        """A row for each (prompt, number of the draw); its noise is a function of both and the seed."""
        from diffdpo.models.text.generation import answer_seed, answer_text, generate

        encoder, prompts = self.encoder, [prompt for prompt, _ in asked]
        ids = [encoder.prompt(self.model.path, prompt) for prompt in prompts]
        seeds = [answer_seed(seed, prompt_text(prompt), draw) for prompt, draw in asked]
        answers = generate(self.model.lm, ids, seeds, self.decoding, end=encoder.end, filler=encoder.pad)
        texts = [answer_text(self.model.tokenizer, own, a.ids) for own, a in zip(ids, answers, strict=True)]
        rewards = self.reward(prompts, texts) if self.reward else [None] * len(texts)
        rows = zip(prompts, texts, answers, rewards, strict=True)
        return [_row(*row) for row in rows]


def _row(prompt: Prompt, text: str, answer: Answer, reward: float | None) -> dict[str, Any]:
    asked = prompt if isinstance(prompt, str) else [turn._asdict() for turn in prompt]
    row = {"prompt": asked, "completion": text, "ended": answer.ended}
    return row if reward is None else {**row, "reward": reward}


def _numbered(prompts: Sequence[Prompt], answers: int) -> list[list[tuple[Prompt, int]]]:
    """Of every prompt the draws to make: one that occurs again gets further ones."""
    seen: Counter[Prompt] = Counter()
    found = []
    for prompt in prompts:
        found.append([(prompt, seen[prompt] + draw) for draw in range(answers)])
        seen[prompt] += answers
    return found


def _write_missing(
    asked: Sequence[Sequence[tuple[Prompt, int]]], out: Path, writer: Callable[[], Writer], request: Request
) -> None:
    opened: Writer | None = None
    with progress("answering", len(asked)) as advance:
        for start in range(0, len(asked), SHARD):
            file, some = out / f"answers-{start // SHARD:05d}.jsonl", asked[start : start + SHARD]
            if not file.exists():
                opened = opened or writer()
                rows = opened([draw for draws in some for draw in draws], request.seed)
                kept = _kept(rows, request)
                write_bytes(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode())
            advance(len(some))


def _kept(rows: Sequence[dict[str, Any]], request: Request) -> Iterator[dict[str, Any]]:
    """What is written. An answer that was cut off must not teach to end in mid-sentence."""
    if request.keep == "all":
        yield from rows
        return
    for first in range(0, len(rows), request.answers):
        some = rows[first : first + request.answers]
        ended = [row for row in some if row["ended"]]
        if request.keep == "best":
            candidates = ended or some
            yield candidates[best([row["reward"] for row in candidates])]
        elif len(ended) > 1:
            answers = [row["completion"] for row in ended]
            yield {"prompt": some[0]["prompt"], "answers": answers, "ranks": ranks([row["reward"] for row in ended])}
