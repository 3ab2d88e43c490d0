"""The judge behind an endpoint: over real HTTP, against a server that also fails in every way servers do."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_samples import ChatServer, asked, fails, says
from PIL import Image
from scorer_samples import KINDS
from vlm_samples import brightness, chat_server, reds, shown

import scorers
from scorers import ScorerError
from scorers.base import Scorer
from scorers.chat import retry
from scorers.images import to_rgb
from scorers.vlm.judge import VLMJudge

KEY = "sk-secret-0123456789"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("JUDGE_KEY", KEY)


def judge(server: ChatServer, **options: Any) -> VLMJudge:
    scorer = scorers.load("vlm-judge", options.pop("model", "seeing-1"), endpoint=server.url, **options)
    assert isinstance(scorer, VLMJudge)
    return scorer


def refusal(scorer: VLMJudge, images: list[Image.Image] | None = None) -> str:
    """The one-line error of scoring."""
    with pytest.raises(ScorerError) as caught:
        scorer.score(["a cat"] * len(images or [1]), images or reds(30))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_a_scorer(server: ChatServer) -> None:
    assert isinstance(judge(server), Scorer)
    assert judge(server).score([], []).shape == (0,)
    assert server.requests == []


def test_every_image_gets_its_number_in_order(server: ChatServer) -> None:
    levels = [10 + 3 * number for number in range(29)]
    scores = judge(server, cache=None).score(["a cat"] * 29, reds(*levels))
    assert scores.tolist() == pytest.approx([level / 10 for level in levels])
    assert (scores.dtype, len(server.requests)) == (torch.float32, 29)


def test_what_is_sent_is_a_chat_completion_request(server: ChatServer) -> None:
    judge(server, api_key_env="JUDGE_KEY", seed=7).score(["a {low} cat"], reds(30))
    [request] = server.requests
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert {name: request[name] for name in ("model", "temperature", "seed", "max_tokens")} == {
        "model": "seeing-1",
        "temperature": 0,
        "seed": 7,
        "max_tokens": 64,
    }
    assert "a {low} cat" in asked(request)
    assert "one number from 1 (worst) to 10 (best)" in asked(request)


def test_without_a_key_none_is_sent(server: ChatServer) -> None:
    judge(server).score(["a"], reds(30))
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("kind", ["rgba", "grey-16", "exif-rotated", "palette-transparent", "portrait"])
def test_the_server_sees_the_pixels_that_other_scorers_see(server: ChatServer, kind: str) -> None:
    server.play(says("5"))
    judge(server).score(["a"], [KINDS[kind]()])
    [pixels] = shown(server.requests[0])
    assert Image.fromarray(pixels).tobytes() == to_rgb(KINDS[kind]()).tobytes()


def test_request_fields_can_be_changed_and_left_out(server: ChatServer) -> None:
    fields = {"max_tokens": None, "max_completion_tokens": 500, "temperature": 1}
    scorer = judge(server, request=fields)
    scorer.score(["a"], reds(30))
    [request] = server.requests
    assert ("max_tokens" in request, request["max_completion_tokens"], request["temperature"]) == (False, 500, 1)
    assert scorer.settings["request"]["max_completion_tokens"] == 500


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions"])
def test_the_endpoint_may_be_given_with_its_path(server: ChatServer, ending: str) -> None:
    scorers.load("vlm-judge", "m", endpoint=server.url + ending).score(["a"], reds(30))
    assert server.paths == ["/v1/chat/completions"]


def test_answers_in_parts_are_read(server: ChatServer) -> None:
    server.play(says([{"type": "text", "text": "7"}, {"type": "text", "text": "/10"}]))
    assert judge(server).score(["a"], reds(30)).tolist() == [7]


# --- pairs


def test_compare_asks_in_both_orders(server: ChatServer) -> None:
    outcomes = judge(server).compare(["a"] * 3, reds(50, 20, 30), reds(40, 60, 30))
    assert outcomes.tolist() == [1, 0, 0.5]
    seen = {tuple(int(image[0, 0, 0]) for image in shown(request)) for request in server.requests}
    assert seen == {(50, 40), (40, 50), (20, 60), (60, 20), (30, 30)}


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [("A", "B", 1), ("B", "A", 0), ("A", "A", 0.5), ("B", "B", 0.5), ("C", "C", 0.5), ("A", "C", 0.5), ("C", "A", 0.5)],
)
def test_only_a_win_in_both_orders_is_a_win(server: ChatServer, first: str, second: str, outcome: float) -> None:
    """`first`: the answer when image a is shown first; a is the brighter one."""
    server.respond = lambda request: says(first if shown(request)[0][0, 0, 0] == 50 else second)
    assert judge(server).compare(["a"], reds(50), reds(40)).tolist() == [outcome]


# --- answers that cannot be read


@pytest.mark.parametrize("answer", ["It is a fine picture.", "11", "-1", "", None, "8/20"])
def test_an_unusable_answer_is_asked_for_again(server: ChatServer, answer: str | None) -> None:
    server.play(says(answer), says("8"))
    assert judge(server).score(["a cat"], reds(30)).tolist() == [8]
    first, second = server.requests
    assert second["messages"][0] == first["messages"][0]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == (answer or "(nothing)")
    assert "one number from 1" in second["messages"][2]["content"]


def test_an_answer_that_stays_unusable_names_the_item(server: ChatServer, tmp_path: Path) -> None:
    server.respond = lambda request: says("hm\nhm") if shown(request)[0][0, 0, 0] == 99 else brightness(request)
    line = refusal(judge(server, asks=4, cache=tmp_path / "c"), reds(30, 99, 40))
    assert "image 1 ('a cat')" in line
    assert "no usable answer in 4 asks, at last 'hm hm'" in line
    assert sum(shown(request)[0][0, 0, 0] == 99 for request in server.requests) == 4


def test_a_pair_is_named_too(server: ChatServer) -> None:
    server.play(says("both"))
    with pytest.raises(ScorerError, match=r"pair 0 \('a cat'\).*at last 'both'.*with C if neither"):
        judge(server).compare(["a cat"], reds(50), reds(40))


# --- servers that fail


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_a_passing_failure_is_tried_again(server: ChatServer, status: int) -> None:
    server.play(fails(status), fails(status), says("6"))
    assert judge(server).score(["a"], reds(30)).tolist() == [6]
    assert len(server.requests) == 3


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", "", "{", "[]", '{"choices": []}', '{"error": "busy"}'])
def test_garbage_is_tried_again(server: ChatServer, body: str) -> None:
    server.play((200, {}, body), says("6"))
    assert judge(server).score(["a"], reds(30)).tolist() == [6]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (fails(500, "boom"), "answered 500 Internal Server Error: boom (tried 3 times)"),
        ((200, {}, "<html>"), "answered with no chat completion: '<html>' (tried 3 times)"),
    ],
)
def test_a_failure_that_stays_is_an_error_after_the_retries(server: ChatServer, reply: Any, words: str) -> None:
    server.play(reply)
    line = refusal(judge(server, max_retries=2))
    assert words in line
    assert "image 0 ('a cat')" in line
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, '{"error": {"message": "image too\\n large", "code": 7}}', "400 Bad Request: image too large"),
        (401, '{"error": "bad key"}', "401 Unauthorized: bad key"),
        (403, "forbidden\nhere", "403 Forbidden: forbidden here"),
        (404, '{"message": "no model seeing-1"}', "404 Not Found: no model seeing-1"),
        (422, '{"detail": [{"msg": "wrong"}]}', "422 Unprocessable"),
        (307, "", "307 Temporary Redirect: (nothing)"),
    ],
)
def test_other_statuses_are_one_error_with_the_servers_words(
    server: ChatServer, status: int, body: str, words: str
) -> None:
    server.play((status, {}, body))
    line = refusal(judge(server))
    assert words in line
    assert f"{server.url}/chat/completions" in line
    assert len(server.requests) == 1


def times(server: ChatServer, *replies: Any) -> list[float]:
    """When the requests came."""
    came: list[float] = []
    left = list(replies)

    def respond(request: dict[str, Any]) -> Any:
        came.append(time.monotonic())
        return left.pop(0)

    server.respond = respond
    return came


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(server: ChatServer, status: int) -> None:
    came = times(server, fails(status, Retry_After="1"), says("6"))
    judge(server).score(["a"], reds(30))
    assert 1.0 <= came[1] - came[0] < 2.0


def test_retry_after_may_be_a_date() -> None:
    assert retry.retry_after_s(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)
    assert retry.retry_after_s(formatdate(time.time() - 100, usegmt=True)) == 0
    assert [retry.retry_after_s(header) for header in ("7", "0", None, "soon", "", "-1")] == [
        7,
        0,
        None,
        None,
        None,
        None,
    ]


def test_a_server_that_wants_an_hour_is_not_waited_for(server: ChatServer) -> None:
    server.play(fails(429, "come tomorrow", Retry_After="3600"))
    assert "come tomorrow (the server asks to wait 360" in refusal(judge(server))
    assert len(server.requests) == 1


def test_waits_double_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 1.0)
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 32, 60, 60]):
        waits = [retry._wait_s(attempt, None) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    assert 5 <= retry._wait_s(0, 5.0) <= 6


def test_a_slow_server_times_out_and_is_asked_again(server: ChatServer) -> None:
    slow = itertools.count()

    def respond(request: dict[str, Any]) -> Any:
        time.sleep(1.0 if next(slow) == 0 else 0)
        return says("6")

    server.respond = respond
    assert judge(server, timeout=0.3).score(["a"], reds(30)).tolist() == [6]
    assert len(server.requests) == 2


def test_a_server_that_is_always_slow_is_named(server: ChatServer) -> None:
    server.respond = lambda request: (time.sleep(0.5), says("6"))[1]
    assert "ReadTimeout" in refusal(judge(server, timeout=0.1, max_retries=1))


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        scorer = scorers.load("vlm-judge", "m", endpoint=url, max_retries=2, cache=None)
        with pytest.raises(ScorerError, match=r"127\.0\.0\.1.*ConnectError.*\(tried 3 times\)"):
            scorer.score(["a"], reds(30))


def test_a_connection_that_breaks_is_tried_again(server: ChatServer) -> None:
    broken = itertools.count()

    def respond(request: dict[str, Any]) -> Any:
        if next(broken) == 0:
            raise ConnectionAbortedError  # the handler dies without a word
        return says("6")

    server.respond = respond
    assert judge(server).score(["a"], reds(30)).tolist() == [6]


def test_a_failure_ends_the_waits_of_the_others(server: ChatServer) -> None:
    server.respond = lambda request: (
        fails(400, "bad") if shown(request)[0][0, 0, 0] == 99 else fails(429, Retry_After="300")
    )
    began = time.monotonic()
    assert "400 Bad Request: bad" in refusal(judge(server, workers=4), reds(10, 20, 30, 99, *range(100, 140)))
    assert time.monotonic() - began < 20
    assert len(server.requests) < 44


# --- how many at once


@pytest.mark.parametrize("workers", [1, 3])
def test_requests_in_flight_are_as_many_as_workers(server: ChatServer, workers: int) -> None:
    server.respond = lambda request: (time.sleep(0.05), brightness(request))[1]
    judge(server, workers=workers).score(["a"] * 12, reds(*range(10, 22)))
    assert server.most_at_once == workers


def test_one_question_is_asked_once_in_a_call(server: ChatServer) -> None:
    image = reds(30)[0]
    scores = judge(server, cache=None).score(["a", "a", "b", "a"], [image, reds(30)[0], image, image])
    assert (scores.tolist(), len(server.requests)) == ([3, 3, 3, 3], 2)


# --- the cache


def test_a_second_call_asks_nothing(server: ChatServer) -> None:
    for _ in range(2):
        assert judge(server).score(["a", "b"], reds(30, 40)).tolist() == [3, 4]
        assert judge(server).compare(["a"], reds(50), reds(40)).tolist() == [1]
    assert len(server.requests) == 4


def test_the_default_cache_is_the_users(server: ChatServer, tmp_path: Path) -> None:
    judge(server).score(["a"], reds(30))
    assert len(list((tmp_path / "user" / "diffdpo" / "vlm").rglob("*.json"))) == 1


def test_without_a_cache_every_call_asks(server: ChatServer, tmp_path: Path) -> None:
    for _ in range(2):
        judge(server, cache=None).score(["a"], reds(30))
    assert len(server.requests) == 2
    assert not (tmp_path / "user").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "seeing-2"},
        {"seed": 1},
        {"question": "How blue is this for {prompt}?"},
        {"low": 0},
        {"high": 9},
        {"max_tokens": 65},
        {"request": {"top_p": 0.5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_may_move_an_answer_asks_again(server: ChatServer, change: dict[str, Any]) -> None:
    server.play(says("3"))
    judge(server).score(["a"], reds(30))
    judge(server, **change).score(["a"], reds(30))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "change", [{"workers": 2}, {"max_retries": 1}, {"timeout": 5}, {"asks": 9}, {"api_key_env": "JUDGE_KEY"}]
)
def test_what_cannot_move_an_answer_does_not(server: ChatServer, change: dict[str, Any]) -> None:
    judge(server).score(["a"], reds(30))
    judge(server, **change).score(["a"], reds(30))
    assert len(server.requests) == 1
    assert judge(server, **change).settings == judge(server).settings


def test_other_pixels_or_another_prompt_ask_again(server: ChatServer) -> None:
    almost = reds(30)[0]
    almost.putpixel((7, 7), (30, 0, 1))
    judge(server).score(["a", "a", "b"], [reds(30)[0], almost, almost])
    assert len(server.requests) == 3


def test_a_truncated_answer_is_asked_again(server: ChatServer, tmp_path: Path) -> None:
    judge(server, cache=tmp_path / "c").score(["a", "b"], reds(30, 40))
    path = sorted((tmp_path / "c").rglob("*.json"))[0]
    path.write_bytes(path.read_bytes()[:-3])
    assert judge(server, cache=tmp_path / "c").score(["a", "b"], reds(30, 40)).tolist() == [3, 4]
    assert len(server.requests) == 3


def test_what_was_answered_before_a_failure_is_kept(server: ChatServer) -> None:
    server.respond = lambda request: fails(400) if shown(request)[0][0, 0, 0] == 99 else brightness(request)
    refusal(judge(server, workers=1), reds(30, 40, 99))
    before = len(server.requests)
    assert judge(server).score(["a cat"] * 2, reds(30, 40)).tolist() == [3, 4]
    assert len(server.requests) == before


SCORE = """
import sys, scorers
from PIL import Image
url, cache, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
images = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in range(first, last)]
judge = scorers.load("vlm-judge", "m", endpoint=url, cache=cache, workers=2)
print(judge.score(["a"] * len(images), images).tolist())
"""


def process(server: ChatServer, cache: Path, first: int, last: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCORE, server.url, str(cache), str(first), str(last)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_loses_only_what_was_in_flight(server: ChatServer, tmp_path: Path) -> None:
    def respond(request: dict[str, Any]) -> Any:
        if len(server.requests) == 10:
            os.kill(running.pid, signal.SIGKILL)
        return brightness(request)

    server.respond = respond
    running = process(server, tmp_path, 20, 60)
    assert running.wait(120) == -signal.SIGKILL
    running.communicate()
    before = len(server.requests)
    server.respond = brightness
    scorer = scorers.load("vlm-judge", "m", endpoint=server.url, cache=tmp_path)
    assert scorer.score(["a"] * 40, reds(*range(20, 60))).tolist() == pytest.approx([n / 10 for n in range(20, 60)])
    assert 40 <= len(server.requests) <= 40 + 3
    assert before >= 10


def test_two_processes_share_a_cache(server: ChatServer, tmp_path: Path) -> None:
    both = [process(server, tmp_path, 20, 50), process(server, tmp_path, 20, 50)]
    printed = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], printed
    assert json.loads(printed[0][0]) == json.loads(printed[1][0]) == pytest.approx([n / 10 for n in range(20, 50)])
    assert len(list(tmp_path.rglob("*.json"))) == 30
    assert list(tmp_path.rglob("*.partial")) == []


# --- the key


def test_the_key_is_nowhere(server: ChatServer, tmp_path: Path) -> None:
    replies = [
        fails(401, f"Incorrect API key provided: {KEY}"),
        fails(500, f"proxy log: Bearer {KEY}"),
        (200, {}, f"<{KEY}>"),
        says(f"my key is {KEY}"),
    ]
    lines = []
    for reply in replies:
        server.play(reply)
        lines.append(refusal(judge(server, api_key_env="JUDGE_KEY", max_retries=0, asks=1)))
    server.play(says(json.dumps({"score": 7, "reason": KEY})))
    scorer = judge(server, api_key_env="JUDGE_KEY")
    scorer.score(["a cat"], reds(30))
    kept = [path.read_text() for path in (tmp_path / "user").rglob("*.json")]
    for text in [*lines, *kept, json.dumps(scorer.settings), scorer.scale, repr(vars(scorer))]:
        assert KEY not in text
    assert "***" in lines[0]
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY is not set"),
        ({"api_key_env": "EMPTY_KEY"}, "environment variable EMPTY_KEY is not set"),
        ({"api_key_env": "WEIRD_KEY"}, "WEIRD_KEY holds no API key"),
        ({"api_key_env": KEY}, "api_key_env must name an environment variable"),
        ({"endpoint": "http://me:pass@host/v1"}, "the endpoint holds a user or password"),
        ({"endpoint": "localhost:8000/v1"}, "is no URL like https://host/v1"),
        ({"endpoint": "file:///etc"}, "is no URL like"),
        ({"endpoint": "http://[::1"}, "the endpoint is no URL"),
        ({"model": None}, "vlm-judge needs model="),
    ],
    ids=str,
)
def test_wrong_connections_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("EMPTY_KEY", " ")
    monkeypatch.setenv("WEIRD_KEY", "sk-schlüssel")
    with pytest.raises(ScorerError, match=words) as caught:
        scorers.load("vlm-judge", **{"model": "m", "endpoint": "http://localhost/v1", **options})
    assert not any(secret in str(caught.value) for secret in (KEY, "pass@", "schlüssel"))


def test_a_query_is_sent_and_not_recorded(server: ChatServer) -> None:
    scorer = scorers.load("vlm-judge", "m", endpoint=f"{server.url}?api-version=3", max_retries=0)
    scorer.score(["a"], reds(30))
    assert server.paths == ["/v1/chat/completions?api-version=3"]
    assert scorer.settings["endpoint"] == f"{server.url}/chat/completions"
