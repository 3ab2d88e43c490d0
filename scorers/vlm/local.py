"""A vision-language model of transformers, in this process. It writes nothing: its probabilities are read.

The model is asked as a chat, and the probability of each allowed answer is what it gives to the answer's tokens next.
So every question has an answer, the same one each time, for one or two passes instead of one per written token.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from scorers.chat.answers import Answer
from scorers.chat.questions import Question
from scorers.errors import ScorerError, first_line
from scorers.precision import dtype_name, exact_precision, resolve_device, resolve_dtype
from scorers.shared import quiet
from scorers.weights import looks_local

Tokens = tuple[int, ...]
"""Token ids of an answer, or of its beginning."""

_NEGLIGIBLE = 1e-3
"""A beginning this much less probable than the best one is not followed: it cannot move the result by more."""


class LocalModel:
    """Asked one question at a time: images of different sizes make no batch."""

    workers = 1

    def __init__(self, model: str, device: str | torch.device = "cpu", dtype: str | torch.dtype | None = None) -> None:
        """`model`: hub name or local folder with an image-text-to-text model, its processor and a chat template."""
        self.device, self.dtype = resolve_device(device), resolve_dtype(dtype)
        self._name = model
        self.processor, self.model = _load(model, self.dtype)
        self.model.to(self.device).eval().requires_grad_(False)
        takes = inspect.signature(self.model.forward).parameters
        # The logits of a whole question are a gigabyte with today's vocabularies.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @property
    def settings(self) -> dict[str, Any]:
        """What moves an answer."""
        return {"model": self._name, "dtype": dtype_name(self.dtype)}

    def identity(self) -> dict[str, Any]:
        """Whose answers these are: the content of a local folder, which is read whole, or the revision on the hub."""
        return {"model": _content_of(self._name), "dtype": dtype_name(self.dtype)}

    def answer(self, question: Question, stop: Event) -> Answer:
        """The question's value from the probabilities of its words, scaled to a sum of 1.

        Raises:
            ScorerError: the model cannot be asked this, or gives none of the words any probability.
        """
        inputs = self._inputs(question)
        with exact_precision(self.device, self.dtype), torch.inference_mode():
            found = self._probabilities(inputs, question.words)
        total = sum(found.values())
        if not total > 0:
            raise ScorerError(f"{self._name} gives no probability to any of {', '.join(question.words)}")
        scaled = {word: probability / total for word, probability in found.items()}
        text = ", ".join(f"{word}: {probability:.6f}" for word, probability in scaled.items())
        return Answer(question.decide(scaled), text)

    def _inputs(self, question: Question) -> dict[str, Any]:
        """The chat with one user's turn, up to where the model would begin to write."""
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
            for part in question.parts
        ]
        try:
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        except Exception as error:  # a template's own; or the prompt holds the model's sign for an image
            raise ScorerError(f"{self._name} cannot be asked this ({first_line(error)})") from error
        return {
            name: value.to(self.device, self.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }

    def _probabilities(self, inputs: Mapping[str, Any], words: Sequence[str]) -> dict[str, float]:
        """Word -> probability that the model writes it and not a longer one of `words`, such as 10 for 1."""
        paths = {word: self._spellings(word) for word in words}
        known = sorted({path[:size] for spelt in paths.values() for path in spelt for size in range(1, len(path) + 1)})
        reach: dict[Tokens, float] = {(): 1.0}
        for start in sorted({path[:-1] for path in known}, key=lambda path: (len(path), path)):
            if start and reach.get(start, 0.0) < _NEGLIGIBLE * max(list(reach.values())[1:]):
                continue
            following = self._next(inputs, start)
            reach |= {path: reach[start] * float(following[path[-1]]) for path in known if path[:-1] == start}
        longer = {start: sum(reach.get(path, 0.0) for path in known if path[:-1] == start) for start in reach}
        return {
            word: sum(max(0.0, reach.get(path, 0.0) - longer.get(path, 0.0)) for path in spelt)
            for word, spelt in paths.items()
        }

    def _spellings(self, word: str) -> set[Tokens]:
        """Its tokens without and with a space before: which one the model writes depends on its chat template."""
        tokenizer = self.processor.tokenizer
        found = {tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (word, f" {word}")}
        spelt = {path for path in found if path and tokenizer.unk_token_id not in path}
        if not spelt:
            raise ScorerError(f"the tokenizer of {self._name} cannot write {word!r}")
        return spelt

    def _next(self, inputs: Mapping[str, Any], written: Tokens) -> Tensor:
        """Probabilities [vocabulary], float64 on the CPU, of the token after the question and what is `written`."""
        logits = self.model(**_continued(inputs, written), **self._last_only).logits[0, -1]
        probabilities = logits.cpu().double().softmax(-1)  # on the CPU: some devices have no float64
        if not probabilities.isfinite().all():
            raise ScorerError(f"{self._name} computes no numbers: weights are damaged or {self.dtype} overflows")
        return cast(Tensor, probabilities)


def _continued(inputs: Mapping[str, Any], written: Tokens) -> dict[str, Any]:
    """The question followed by what the model has written: text, so 1 in the mask and 0 in every other kind of row."""
    shape = inputs["input_ids"].shape
    longer = dict(inputs)
    for name, value in inputs.items():
        if written and value.shape == shape:
            tail = written if name == "input_ids" else [int(name == "attention_mask")] * len(written)
            longer[name] = torch.cat([value, value.new_tensor([list(tail)])], dim=1)
    return longer


def _load(model: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """(processor, model in `dtype` on the CPU). A weight the files lack would stay random, so it is an error."""
    path = str(Path(model).expanduser()) if looks_local(model) else model
    if looks_local(model) and not (Path(path) / "config.json").is_file():
        raise ScorerError(f"there is no model folder {path} with a config.json: give a local folder or a hub name")
    try:
        with quiet():
            processor = cast(Any, AutoProcessor).from_pretrained(path)
            loaded, report = cast(Any, AutoModelForImageTextToText).from_pretrained(
                path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # transformers, safetensors and the hub client each raise their own kinds
        why = first_line(error)
        raise ScorerError(f"model {model!r} cannot be loaded as an image-text-to-text model ({why})") from error
    _check_whole(model, report)
    if not getattr(processor, "chat_template", None) or not hasattr(processor, "tokenizer"):
        raise ScorerError(f"model {model!r} has no chat template, so it cannot be asked: take an instruction-tuned one")
    return processor, loaded


def _check_whole(model: str, report: Mapping[str, Iterable[Any]]) -> None:
    for kind in ("missing", "mismatched"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in report[f"{kind}_keys"])
        if keys:
            raise ScorerError(f"model {model!r} is not whole: {len(keys)} {kind} weights, such as {keys[0]}")


def _content_of(model: str) -> dict[str, str]:
    if not looks_local(model):
        file = try_to_load_from_cache(model, "config.json")
        return {"name": model, "revision": Path(file).parent.name if isinstance(file, str) else ""}
    digest = hashlib.sha256()
    folder = Path(model).expanduser()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(file.relative_to(folder)).encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return {"sha256": digest.hexdigest()}
