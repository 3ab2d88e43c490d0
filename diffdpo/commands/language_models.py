"""What `--model` and `--lora` mean where a language model is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.benchmarks.text.likelihood import Likelihood
    from diffdpo.data.text.records import Query


def named(path: str) -> str:
    """The folder of the built-in model `words`, the file of a packaged one; any other name as it is.

    Raises:
        UserError: nothing of the name is there.
    """
    from diffdpo.models.text.loading import load_context
    from diffdpo.words.weights import resolve_model

    found = resolve_model(path)
    load_context(found)
    return found


def content(path: str | None) -> str | None:
    """What decides of a model, a LoRA or a file: its content's hash, or a hub name."""
    from diffdpo.models.text.packaged import packaged
    from diffdpo.runs import content_hash
    from diffdpo.words.weights import resolve_model

    if path is None:
        return None
    place = packaged(resolve_model(path))
    return content_hash(place) if Path(place).exists() else place


def check_room(model: str, queries: Sequence[Query], max_tokens: int, end_token: str | None = None) -> None:
    """Look at all prompts by a model's tokenizer and config alone, before anything is drawn.

    Raises:
        UserError: one leaves no room for an answer of so many tokens, or is a conversation without a chat template.
    """
    from diffdpo.data.text.tokens import Encoder
    from diffdpo.models.text.loading import load_context, load_tokenizer
    from diffdpo.words.weights import resolve_model

    place = resolve_model(model)
    encoder, context = Encoder.of(load_tokenizer(place), model, end_token), load_context(place)
    for query in queries:
        n = len(encoder.prompt(query.where, query.prompt))
        if context is not None and n + max_tokens > context:
            raise UserError(
                f"{query.where}: a prompt of {n} tokens and an answer of {max_tokens} are more than the model's "
                f"{context} ({model}); shorten it, or lower --max-tokens"
            )


def check_lora(path: str | None) -> None:
    """Raises UserError for a LoRA that is no folder of peft's."""
    if path is not None and not (Path(path) / "adapter_config.json").is_file():
        raise UserError(f"--lora {path}: no adapter_config.json there, so not a LoRA of a language model")


def open_likelihood(model: str, lora: str | None, device: Any) -> Likelihood:
    """A language model to be asked, its LoRA added into it.

    Raises:
        UserError: as `CausalLM`, or a LoRA of another model.
    """
    from diffdpo.benchmarks.text.likelihood import Likelihood
    from diffdpo.data.text.tokens import Encoder
    from diffdpo.models.lora import merge_text_lora
    from diffdpo.models.text.causal_lm import CausalLM

    opened = CausalLM(named(model), device=device)
    if lora is not None:
        merge_text_lora(opened.lm, lora)
    return Likelihood(opened, Encoder.of(opened.tokenizer, model))
