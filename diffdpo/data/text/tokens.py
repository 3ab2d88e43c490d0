"""A prompt and its answer as tokens: where the answer begins, that it ends, and what is too long.

Knows no model; a tokenizer of transformers is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from diffdpo.data.text.records import Prompt, Turn
from diffdpo.errors import UserError


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    eos_token_id: int | None
    bos_token_id: int | None
    pad_token_id: int | None
    chat_template: Any

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...

    def convert_ids_to_tokens(self, ids: int) -> Any: ...

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> Any: ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...


class Tokens(NamedTuple):
    """A sequence, and which of its tokens are learnt or judged: the answer's, its end token with them.

    The first token is never one of them: nothing stands before it that could tell it.
    """

    ids: tuple[int, ...]
    completion: tuple[bool, ...]

    @classmethod
    def of(cls, prompt: Sequence[int], answer: Sequence[int]) -> Tokens:
        """A prompt, which has a token at least, and the answer behind it."""
        return cls((*prompt, *answer), (*[False] * len(prompt), *[True] * len(answer)))

    @property
    def n_completion(self) -> int:
        return sum(self.completion)


@dataclass(frozen=True)
class Encoder:
    """Text to tokens, for one tokenizer.

    Attributes:
        end: id of the token that ends an answer.
        start: id of the token that a sequence starts with where its prompt has no token.
        pad: id that fills up a batch; what is padding the mask says, not the id, so that it may be the end token's.
    """

    tokenizer: Tokenizer
    end: int
    start: int
    pad: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, name: str, end_token: str | None = None) -> Encoder:
        """Read the special tokens of a tokenizer; one without a pad token is filled up with its end token.

        Args:
            name: of the model, for messages.
            end_token: instead of the tokenizer's own.

        Raises:
            UserError: there is no end token, or `end_token` is not one token.
        """
        end = tokenizer.eos_token_id if end_token is None else tokenizer.convert_tokens_to_ids(end_token)
        if end_token is not None and (not isinstance(end, int) or tokenizer.convert_ids_to_tokens(end) != end_token):
            raise UserError(f"data.end_token: {end_token!r} is no token of {name}'s tokenizer")
        if end is None:
            raise UserError(
                f"{name}: its tokenizer has no end token, so no answer could ever end; name one in data.end_token, or "
                "as eos_token in tokenizer_config.json"
            )
        start = tokenizer.bos_token_id
        pad = tokenizer.pad_token_id
        return cls(tokenizer, end, end if start is None else start, end if pad is None else pad)

    def answer(self, where: str, prompt: Prompt, completion: str) -> Tokens:
        """Prompt and completion; the boundary is the longest common token prefix of the prompt and of both together.

        A token that merges the prompt's last letters with the completion's first thus counts as the completion's.
        """
        if isinstance(prompt, str):
            return self._marked(self._plain(prompt), self._plain(prompt + completion))
        turns = [*prompt, Turn("assistant", completion)]
        opened = self._rendered(where, prompt, opens=True)
        return self._marked(self._raw(opened), self._raw(self._rendered(where, turns)))

    def prompt(self, where: str, prompt: Prompt) -> list[int]:
        """The prompt alone, as it stands before an answer that is to be generated; at least one token."""
        ids = self._plain(prompt) if isinstance(prompt, str) else self._raw(self._rendered(where, prompt, opens=True))
        return ids or [self.start]

    def dialogue(self, where: str, turns: Sequence[Turn]) -> Tokens:
        """A conversation through the chat template; learnt are the assistant's turns, each with its end token.

        Raises:
            UserError: the tokenizer has no chat template, or one that writes earlier turns differently later on.
        """
        whole = self._rendered(where, turns)
        ids = self._ended(self._raw(whole))
        learnt = [False] * len(ids)
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before, after = (
                self._rendered(where, turns[:number], opens=True),
                self._rendered(where, turns[: number + 1]),
            )
            if not (whole.startswith(before) and whole.startswith(after)):
                raise UserError(
                    f"{where}: the chat template writes turn {number + 1} differently once others follow, so that its "
                    "tokens cannot be told apart; give each answer as a 'prompt' of turns and a 'completion'"
                )
            first = common_prefix(self._raw(before), ids)
            last = len(ids) if number == len(turns) - 1 else common_prefix(self._raw(after), ids)
            ends = [place for place in range(first, last) if ids[place] == self.end]
            for place in range(first, ends[-1] + 1 if ends else last):
                learnt[place] = True
        return self._started(ids, learnt)

    def document(self, text: str) -> Tokens:
        """Plain text and an end token; all of it is learnt."""
        return self._marked([], self._plain(text))

    def _marked(self, before: list[int], whole: list[int]) -> Tokens:
        boundary = common_prefix(before, whole)
        ids = self._ended(whole)
        return self._started(ids, [place >= boundary for place in range(len(ids))])

    def _started(self, ids: list[int], learnt: list[bool]) -> Tokens:
        """With a token before the first learnt one."""
        if not learnt[0]:
            return Tokens(tuple(ids), tuple(learnt))
        if ids[0] == self.start and len(ids) > 1:
            return Tokens(tuple(ids), (False, *learnt[1:]))
        return Tokens((self.start, *ids), (False, *learnt))

    def _ended(self, ids: list[int]) -> list[int]:
        """With exactly one end token at the end; a chat template writes one, and a line break after it."""
        if self.end in ids[-3:]:
            last = len(ids) - 1 - ids[::-1].index(self.end)
            if not self._text_of(ids[last + 1 :]).strip():
                ids = ids[:last]
        return [*ids, self.end]

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) if ids else ""

    def _text_of(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids))) if ids else ""

    def _plain(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        while ids and ids[-1] == self.end and self.start != self.end:  # some tokenizers end every text
            ids.pop()
        return ids

    def _raw(self, text: str) -> list[int]:
        """Without special tokens beside those that a chat template has written."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _rendered(self, where: str, turns: Sequence[Turn], *, opens: bool = False) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(
                f"{where}: a conversation, but the model's tokenizer has no chat template; give prompts as plain text, "
                "or use a model that was tuned to chat"
            )
        messages = [turn._asdict() for turn in turns]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))
        except Exception as error:  # templates raise what they like: a role out of turn, jinja's own errors
            raise UserError(f"{where}: the model's chat template refuses this conversation ({error})") from None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))
