"""Questions to a model, a few at a time; every answer is kept, and none is asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Event
from typing import Any, Protocol

from scorers.chat.answers import Answer
from scorers.chat.cache import AnswerCache, key
from scorers.chat.inflight import run_all
from scorers.chat.options import ChatOptions
from scorers.chat.questions import Question
from scorers.errors import ScorerError

Asked = tuple[str, Question]
"""What a question is about, for an error message; and the question."""


class Model(Protocol):
    """Whoever answers: `endpoint.Endpoint`, or `vlm.local.LocalModel`."""

    workers: int
    """Questions at a time."""

    @property
    def settings(self) -> dict[str, Any]: ...

    def identity(self) -> dict[str, Any]: ...

    def answer(self, question: Question, stop: Event) -> Answer: ...


class Asker:
    """One model, asked by `options`."""

    def __init__(self, options: ChatOptions, model: Model) -> None:
        self._who, self.model = options.who, model
        self._cache = AnswerCache(options.cache_folder)
        self._identity = {} if self._cache.folder is None else model.identity()

    def ask(self, questions: Iterable[Asked]) -> list[float]:
        """The values in the order of the questions; one that occurs again is asked once."""
        stop = Event()
        names: list[str] = []

        def jobs() -> Iterator[Callable[[], float]]:
            seen = set()
            for about, question in questions:
                names.append(key(self._identity, question.content()))
                if names[-1] not in seen:
                    seen.add(names[-1])
                    yield self._job(names[-1], about, question, stop)

        values = run_all(jobs(), self.model.workers, stop)
        found = dict(zip(dict.fromkeys(names), values, strict=True))
        return [found[name] for name in names]

    def _job(self, name: str, about: str, question: Question, stop: Event) -> Callable[[], float]:
        def job() -> float:
            answer = self._cache.get(name)
            if answer is None:
                try:
                    answer = self.model.answer(question, stop)
                except ScorerError as error:
                    raise ScorerError(f"{self._who}: {about}: {error}") from error
                self._cache.put(name, answer)
            return answer.value

        return job


def open_endpoint(options: ChatOptions) -> Model:
    """The endpoint of `options`. Only now is what it needs imported."""
    try:
        from scorers.chat.endpoint import Endpoint
    except ModuleNotFoundError as error:
        raise ScorerError(f"{options.who}: endpoint= needs {error.name!r}, which is not installed") from error
    return Endpoint(options)
