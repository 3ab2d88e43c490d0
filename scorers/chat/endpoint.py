"""A model behind an OpenAI-compatible chat-completions endpoint: a question goes out, a written answer comes back.

Over httpx2, which huggingface_hub brings: one POST needs no client library of a vendor.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import partial
from threading import Event
from typing import Any

import httpx2
from PIL import Image

from scorers.chat.answers import Answer
from scorers.chat.options import ChatOptions, read_key
from scorers.chat.questions import Part, Question
from scorers.chat.retry import Passing, retry_after_s, with_retries
from scorers.errors import ScorerError, first_line

_PASSING = (408, 429)
"""Statuses besides 5xx that may be gone next time."""


class Endpoint:
    """Asks with temperature 0 and a fixed seed. Safe to use from several threads."""

    def __init__(self, options: ChatOptions) -> None:
        """Reads the key; connects with the first question."""
        self._options = options
        self._url = _completions(options.endpoint or "", options.who)
        self._key = read_key(options.api_key_env, options.who)
        self.workers = options.workers
        sent = {"model": options.model, "temperature": 0, "seed": options.seed, "max_tokens": options.max_tokens}
        fields = sent | dict(options.request or {})
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=options.timeout,
            limits=httpx2.Limits(max_connections=self.workers, max_keepalive_connections=self.workers),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What moves an answer. A query may hold a secret and stays out."""
        return {"model": self._options.model, "endpoint": self._shown, "request": self._fields}

    def identity(self) -> dict[str, Any]:
        """Whose answers these are."""
        return self.settings

    def answer(self, question: Question, stop: Event) -> Answer:
        """The first answer that can be read. After one that cannot, the model sees it and is told again how to answer.

        Raises:
            ScorerError: none could be read, or the server gave none.
        """
        messages = [_message("user", _content(question.parts))]
        text = ""
        for _ in range(self._options.asks):
            text = with_retries(partial(self._complete, messages), self._options.max_retries, stop)
            value = question.read(text)
            if value is not None:
                return Answer(value, text)
            messages += [_message("assistant", text.strip() or "(nothing)"), _message("user", question.instruction)]
        raise ScorerError(
            f"{self._options.model} gave no usable answer in {self._options.asks} asks, at last {_short(text, 80)!r}; "
            f"it was told: {question.instruction} (max_tokens={self._fields.get('max_tokens')})"
        )

    def _complete(self, messages: Sequence[dict[str, Any]]) -> str:
        """One request -> the text of the answer."""
        try:
            response = self._client.post(self._url, json=self._fields | {"messages": messages})
        except httpx2.RequestError as error:  # timeouts, connections that fail or break
            message = self._hidden(f"{self._shown}: {type(error).__name__}: {first_line(error)}")
            if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
                raise ScorerError(message) from None
            raise Passing(message) from None
        except ValueError as error:  # a prompt or a field that JSON cannot hold
            raise ScorerError(f"the question cannot be sent ({first_line(error)})") from None
        if response.status_code != 200:
            raise self._refusal(response)
        text = _text(response)
        if text is None:
            # From a proxy, or cut short: it may be gone next time.
            message = f"{self._shown} answered with no chat completion: {_short(response.text, 80)!r}"
            raise Passing(self._hidden(message))
        return self._hidden(text)

    def _refusal(self, response: httpx2.Response) -> Passing | ScorerError:
        status = response.status_code
        message = self._hidden(f"{self._shown} answered {status} {response.reason_phrase}: {_complaint(response)}")
        if status in _PASSING or status >= 500:
            return Passing(message, retry_after_s(response.headers.get("retry-after")))
        return ScorerError(message)

    @property
    def _shown(self) -> str:
        return str(self._url.copy_with(query=None))

    def _hidden(self, text: str) -> str:
        """Servers repeat a key that they refuse."""
        return text.replace(self._key, "***") if self._key else text


def _completions(endpoint: str, who: str) -> httpx2.URL:
    """The URL to post to: `endpoint`, with `/chat/completions` unless it ends so."""
    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL as error:
        raise ScorerError(f"{who}: the endpoint is no URL ({first_line(error)})") from None
    if url.userinfo:
        raise ScorerError(f"{who}: the endpoint holds a user or password: put the key into api_key_env's variable")
    if url.scheme not in ("http", "https") or not url.host:
        raise ScorerError(f"{who}: endpoint {endpoint!r} is no URL like https://host/v1")
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _content(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": _data_url(part)}
        for part in parts
    ]


def _data_url(image: Image.Image) -> dict[str, str]:
    """As PNG: a JPEG would show the judge other pixels than the other scorers see."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return {"url": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"}


def _text(response: httpx2.Response) -> str | None:
    """The answer in a chat completion, None if the response is none. A model that says nothing has an empty one."""
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _complaint(response: httpx2.Response) -> str:
    """The server's own words, on one line."""
    try:
        body: Any = response.json()
    except ValueError:
        return _short(response.text)
    for name in ("error", "message", "detail"):
        while isinstance(body, dict) and name in body:
            body = body[name]
    return _short(str(body))


def _short(text: str, limit: int = 200) -> str:
    line = " ".join(text.split()) or "(nothing)"
    return line if len(line) <= limit else line[: limit - 3] + "..."
