"""Opening language models and tokenizers of transformers: a folder, a hub name, a GGUF file, a packaged model.

Runs no code from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from diffdpo.collector import collector_at_rest
from diffdpo.errors import UserError
from diffdpo.models.text.dropout import no_dropout
from diffdpo.models.text.packaged import packaged

GGUF, GGUF_FILE = ".gguf", "gguf_file"


@collector_at_rest()
def load_network(auto_class: Any, path: str, dtype: torch.dtype = torch.float32) -> Any:
    """A network in evaluation mode, without dropout and without cache of keys and values.

    Args:
        auto_class: `AutoModelForCausalLM` or `AutoModel`.

    Raises:
        UserError: no such folder or file, or it holds no model of that kind.
    """
    import transformers

    place, options = located(path)
    try:
        with quiet():  # of what it tells, `_refuse_gaps` tells what matters in a line
            config = transformers.AutoConfig.from_pretrained(place, **options)
            no_dropout(config)
            network, told = auto_class.from_pretrained(
                place, config=config, dtype=dtype, output_loading_info=True, **options, **_unpacked(options)
            )
    except ImportError as error:
        raise UserError(f"model.path: {path}: {' '.join(str(error).split())}") from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"model.path: {path}: not a language model ({_short(error)})") from None
    _refuse_gaps(path, told)
    if getattr(network, "hf_quantizer", None) is not None and GGUF_FILE in options:
        network.hf_quantizer.remove_quantization_config(network)  # or it could be neither saved nor trained
    network.config.use_cache = False
    return network.eval()


def _unpacked(options: dict[str, Any]) -> dict[str, Any]:
    """What makes plain weights of a GGUF file's blocks, which newer transformers would keep."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config and GGUF_FILE in options else {}


@collector_at_rest()
def load_tokenizer(path: str) -> Any:
    """The tokenizer that belongs to a model.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    place, options = located(path)
    try:
        return AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(f"model.path: {path}: no tokenizer that can be opened ({_short(error)})") from None


def load_context(path: str) -> int | None:
    """How many tokens the model at `path` was made for, from its config alone; None where it does not say.

    Raises:
        UserError: there is no model.
    """
    from transformers import AutoConfig

    place, options = located(path)
    try:
        return context_length(AutoConfig.from_pretrained(place, **options))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"model.path: {path}: not a language model ({_short(error)})") from None


def located(path: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is given for a folder, a hub name, a GGUF file or the name of a packaged model: the place,
    and further arguments.

    Raises:
        UserError: no such folder or file, and no hub name either.
    """
    path = packaged(path)
    place = Path(path)
    if place.is_file():
        if place.suffix.lower() != GGUF:
            raise UserError(f"model.path: {path}: of single files only *.gguf is a language model; name its folder")
        return str(place.parent), {GGUF_FILE: place.name}
    if path == "shapes":
        raise UserError("model.path: shapes: the built-in image model, which writes no text; `words` is one that does")
    if not place.is_dir() and (place.is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise UserError(f"model.path: {path}: no such folder, and a hub name reads owner/name")
    return path, {}


def context_length(config: Any) -> int | None:
    """How many tokens a model was made for; None where its config does not say."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None)), None)


def hidden_states(backbone: Any, ids: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
    """The last hidden state of every token, [B, L, d]; whatever side the padding is on.

    Args:
        ids: [B, L] int64.
        mask: [B, L] bool, True on real tokens; or [B, L, L] bool, whether place i sees place j.
        positions: [B, L] int64; None is counted from the mask, and goes with [B, L] alone.
    """
    inputs = {"input_ids": ids, "attention_mask": mask.long() if mask.ndim == 2 else _every_pair(backbone, mask)}
    if "position_ids" in inspect.signature(backbone.forward).parameters:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0) if positions is None else positions
    states: Tensor = backbone(**inputs).last_hidden_state
    return states


def _every_pair(backbone: Any, mask: Tensor) -> Tensor:
    """A mask of pairs of places as attention takes it: yes and no, or where that is not known what is added."""
    if backbone.config._attn_implementation == "sdpa":
        return mask[:, None]
    added = torch.zeros(mask.shape, dtype=backbone.dtype, device=mask.device)
    return added.masked_fill(~mask, torch.finfo(backbone.dtype).min)[:, None]


@torch.no_grad()
def refuse_unpackable(path: str, backbone: Any) -> None:
    """Raise UserError if the network does not keep packed sequences apart: their likelihoods would silently be others.

    Two sequences of one prompt in one row must have the states that they have alone.
    """
    config, device = backbone.config.get_text_config(), backbone.device
    # A window is too long to show in six tokens.
    kinds = getattr(config, "layer_types", None)
    windows = "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None)
    ids = torch.tensor([3, 4, 5, 6, 7, 8], device=device) % config.vocab_size
    first, second = ids[:4], torch.cat([ids[:2], ids[4:]])
    mask = torch.ones(6, 6, dtype=torch.bool, device=device).tril()
    mask[4:, 2:4] = False
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]], device=device)
    try:
        packed = hidden_states(backbone, ids[None], mask[None], positions)[0]
        alone = [hidden_states(backbone, some[None], torch.ones_like(some[None]).bool())[0] for some in (first, second)]
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"data.packing: {path} cannot take packed sequences ({_short(error)}); set it to false"
        ) from None
    expected = torch.cat([alone[0], alone[1][2:]])
    if windows or not torch.allclose(packed, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
        raise UserError(f"data.packing: {path} does not keep packed sequences apart; set it to false")


def checkpoint_activations(network: Any) -> None:
    """Make activations again in the backward pass instead of keeping them. Works in training mode only."""
    options = {"use_reentrant": False}
    if hasattr(network, "activation_checkpointing_enable"):  # its name since some transformers 5
        network.activation_checkpointing_enable(options)
    else:
        network.gradient_checkpointing_enable(options)


@contextmanager
def quiet() -> Iterator[None]:
    """Within, transformers neither warns nor draws bars of its own."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _refuse_gaps(path: str, told: Any) -> None:
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        raise UserError(
            f"model.path: {path}: its weights lack {len(missing)} tensors, {missing[0]!r} first: not a model of this "
            "kind, or cut short"
        )


def _short(error: Exception) -> str:
    return shorten(str(error), 160, placeholder=" ...")
