"""A language model as the judge of texts, over real HTTP: both orders, the cache, and what is wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_samples import asked, chat_server, says

from diffdpo.benchmarks.text.llm_judge import LlmJudge, LlmOptions, read_llm_options
from scorers.errors import ScorerError

PROMPTS, OURS, THEIRS = ["Tea?", "Rain?"], ["longer answer", "short"], ["brief", "a much longer answer"]


def longest(request):
    """Likes the longer response, whichever comes first."""
    first, second = asked(request).split("Response A:\n")[1].split("Response B:\n")
    return says("A" if len(first) > len(second.split("Two assistants")[0]) else "Response B")


def judge(url: str, cache: Path | None = None) -> LlmJudge:
    return LlmJudge(LlmOptions(model="m", endpoint=url, cache=cache))


def test_a_win_must_be_one_in_both_orders(tmp_path):
    with chat_server() as server:
        server.respond = longest
        found = judge(server.url, tmp_path).compare(PROMPTS, OURS, THEIRS)
        assert [judged.outcome for judged in found] == [1.0, 0.0]
        assert len(server.requests) == 4
        assert {"Tea?" in asked(request) for request in server.requests} == {True, False}
        server.respond = lambda request: says("A")
        assert [judged.outcome for judged in judge(server.url).compare(PROMPTS, OURS, THEIRS)] == [0.5, 0.5]


def test_an_answer_is_asked_for_once(tmp_path):
    with chat_server() as server:
        server.respond = longest
        first = judge(server.url, tmp_path).compare(PROMPTS, OURS, THEIRS)
        n = len(server.requests)
        assert judge(server.url, tmp_path).compare(PROMPTS, OURS, THEIRS) == first
        assert len(server.requests) == n


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": "m"}, "llm-judge needs endpoint="),
        ({"endpoint": "http://localhost/v1"}, "llm-judge needs model="),
        ({"model": "m", "endpoint": "http://localhost/v1", "question": "Which?"}, "holds no {prompt}"),
        ({"model": "m", "endpoint": "http://localhost/v1", "low": 1}, "no option 'low'"),
    ],
)
def test_options_that_make_no_sense(tmp_path, content, message):
    (tmp_path / "judge.json").write_text(json.dumps(content))
    with pytest.raises(ScorerError, match=message):
        read_llm_options(tmp_path / "judge.json")
