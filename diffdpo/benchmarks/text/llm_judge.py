"""A language model behind an OpenAI-compatible endpoint, asked which of two answers is better, in both orders.

Client, retries and the cache of answers are those of the judge of images: `scorers.chat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from diffdpo.benchmarks.text.judges import Judged
from diffdpo.data.text.records import Prompt, prompt_text
from scorers.chat.asking import Asked, Asker, open_endpoint
from scorers.chat.options import ChatOptions, read_options
from scorers.chat.questions import CHOOSE, Choice, agreed, filled
from scorers.errors import ScorerError

QUESTION = """Two assistants answered the following.

{prompt}

Which response is better? It should be helpful, truthful and harmless, and say no more than it needs."""


@dataclass(frozen=True, kw_only=True)
class LlmOptions(ChatOptions):
    """What a JSON file of `--judge` may hold."""

    who = "llm-judge"
    question: str = QUESTION
    """What is asked; holds `{prompt}`. The two answers stand before it, how to answer behind it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_texts(question=False)
        if "{prompt}" not in self.question:
            raise ScorerError("llm-judge: question holds no {prompt}, so the prompt would not be asked about")
        if self.endpoint is None:
            raise ScorerError("llm-judge needs endpoint=: the URL of an OpenAI-compatible API")


class LlmJudge:
    """What the order of the answers decides is a tie (Zheng et al. 2023, sec. 3.4)."""

    def __init__(self, options: LlmOptions) -> None:
        """Reads the key; connects with the first question."""
        self._question = options.question
        self._asker = Asker(options, open_endpoint(options))

    def compare(self, prompts: Sequence[Prompt], ours: Sequence[str], theirs: Sequence[str]) -> list[Judged]:
        """Raises ScorerError where the endpoint gives no usable answer."""

        def questions() -> Iterator[Asked]:
            for prompt, a, b in zip(prompts, ours, theirs, strict=True):
                text = prompt_text(prompt)
                yield f"{text[:60]!r}", choice(self._question, text, a, b)
                yield f"{text[:60]!r}", choice(self._question, text, b, a)

        values = self._asker.ask(questions())
        return [Judged(agreed(ab, 1 - ba)) for ab, ba in zip(values[::2], values[1::2], strict=True)]


def choice(template: str, prompt: str, a: str, b: str) -> Choice:
    """Ask which of two answers is better, in this order."""
    return Choice((f"Response A:\n{a}", f"Response B:\n{b}", filled(template, prompt, CHOOSE)), CHOOSE)


def read_llm_options(path: Path) -> LlmOptions:
    """The options in a JSON file.

    Raises:
        ScorerError: a file that is none, an unknown option, a value that makes no sense.
    """
    given = read_options(path, LlmOptions.who)
    known = [field.name for field in fields(LlmOptions)]
    for name in given:
        if name not in known:
            raise ScorerError(f"{path}: llm-judge has no option {name!r}; its options: {', '.join(known)}")
    return LlmOptions(**given)
