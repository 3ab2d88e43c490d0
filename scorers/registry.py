"""Which scorers exist and how a name becomes one. Knows names and paths, and imports no model library."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from scorers.errors import ScorerError, first_line

if TYPE_CHECKING:
    import torch

    from scorers.base import Scorer

GROUP = "diffdpo.scorers"
"""Entry-point group of third parties: name -> "module:factory"."""

BUILT_IN: Mapping[str, str] = {
    "pickscore": "scorers.pickscore:PickScore",
    "hpsv2": "scorers.hpsv2:HPSv2",
    "hpsv2.1": "scorers.hpsv2:HPSv21",
    "imagereward": "scorers.imagereward:ImageReward",
    "aesthetic": "scorers.aesthetic:Aesthetic",
    "clipscore": "scorers.clipscore:ClipScore",
    "vlm-judge": "scorers.vlm.judge:vlm_judge",
}
"""name -> "module:factory". A factory is called as `factory(model=, device=, dtype=, **options)`."""

COMMON = ("model", "device", "dtype")


def names() -> list[str]:
    """Every name that `load` takes: the built-in ones, then those of installed third-party packages."""
    return [*BUILT_IN, *sorted(set(entry_points(group=GROUP).names) - set(BUILT_IN))]


def load(
    name: str,
    model: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> Scorer:
    """The scorer `name`, its weights in memory and ready to `score`.

    `model`: hub name, local folder or local file; None = the scorer's published weights.
    `dtype`: None (float32), "fp32", "fp16", "bf16" or a torch.dtype.
    `options`: the scorer's own, for instance `batch_size`; an unknown one is an error.
    """
    factory = _factory(name)
    _check_options(name, factory, options)
    scorer = factory(model=model, device=device, dtype=dtype, **options)
    lacking = [part for part in ("name", "scale", "settings", "score") if not hasattr(scorer, part)]
    if lacking:
        raise ScorerError(f"scorer {name!r} is none: what its factory returned has no {', '.join(lacking)}")
    return cast("Scorer", scorer)


def _factory(name: str) -> Callable[..., Any]:
    """A built-in name cannot be taken over by a third party: a stored score must mean the same everywhere."""
    if name in BUILT_IN:
        return _built_in(name)
    found = {point.value: point for point in entry_points(group=GROUP) if point.name == name}
    if not found:
        raise ScorerError(_unknown(name))
    if len(found) > 1:
        owners = ", ".join(sorted(_owner(point) for point in found.values()))
        raise ScorerError(f"scorer {name!r} is offered by several packages ({owners}): uninstall all but one")
    return _third_party(next(iter(found.values())))


def _built_in(name: str) -> Callable[..., Any]:
    module, _, attribute = BUILT_IN[name].partition(":")
    try:
        return cast("Callable[..., Any]", getattr(importlib.import_module(module), attribute))
    except ModuleNotFoundError as error:
        raise ScorerError(f"scorer {name!r} needs {error.name!r}, which is not installed") from error


def _third_party(point: EntryPoint) -> Callable[..., Any]:
    try:
        factory = point.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise ScorerError(
            f"scorer {point.name!r} of {_owner(point)} cannot be loaded from {point.value!r}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not callable(factory):
        raise ScorerError(f"scorer {point.name!r} of {_owner(point)}: {point.value!r} is not callable")
    return cast("Callable[..., Any]", factory)


def _check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Unknown options are refused here, before any weights are read."""
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [option for option in parameters if option not in COMMON]
    for option in options:
        if option not in known:
            raise ScorerError(
                f"scorer {name!r} has no option {option!r}{_nearest(option, known)}; "
                f"its options: {', '.join(known) or 'none'}"
            )


def _unknown(name: str) -> str:
    known = names()
    return f"there is no scorer {name!r}{_nearest(name, known)}; the names: {', '.join(known)}"


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f", did you mean {close[0]!r}?" if close else ""


def _owner(point: EntryPoint) -> str:
    return f"package {point.dist.name!r}" if point.dist is not None else "an unnamed package"
