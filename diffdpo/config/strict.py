"""Dataclasses filled from strict YAML and `section.key=value` overrides.

An unknown key is an error that names the nearest known one; a value of the wrong type is an error that names the key.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from diffdpo.errors import UserError, unknown

T = TypeVar("T")


def build(cls: type[T], settings: Mapping[str, Any], prefix: str = "") -> T:
    """Fill a dataclass from a mapping, section by section."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            raise _unknown_key(str(key), prefix, hints)
    values: dict[str, Any] = {}
    for name, f in known.items():
        if name in settings:
            values[name] = _convert(settings[name], hints[name], prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"key {prefix + name!r} is missing")
    return cls(**values)


def _unknown_key(key: str, prefix: str, hints: Mapping[str, Any]) -> UserError:
    """A key that belongs into a section and stands outside of it is the commonest slip, so it is looked for there."""
    sections = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    for name, kind in sections.items():
        if key in {f.name for f in dataclasses.fields(kind)}:
            return UserError(f"unknown key {prefix + key!r}: did you mean '{prefix}{name}.{key}'?")
    return unknown("key", prefix + key, [prefix + name for name in hints])


def _convert(value: Any, kind: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{key}: a section of keys is wanted here, not {value!r}")
        return build(kind, value, f"{key}.")  # type: ignore[arg-type]
    words: tuple[Any, ...] = ()
    if get_origin(kind) in (types.UnionType, typing.Union):
        arms = get_args(kind)
        words = tuple(word for arm in arms if get_origin(arm) is Literal for word in get_args(arm))
        if value in words or (value is None and type(None) in arms):
            return value
        kind = next(arm for arm in arms if arm is not type(None))
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{key}: a list is wanted here, such as [a, b], not {value!r}")
        return tuple(_convert(item, get_args(kind)[0], f"{key}[{place}]") for place, item in enumerate(value))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise unknown(f"value of {key}:", str(value), map(str, get_args(kind)))
        return value
    return _convert_scalar(value, kind, key, words)


def _convert_scalar(value: Any, kind: Any, key: str, words: Sequence[str] = ()) -> Any:
    """A value of a plain type; `words` could have been in its place."""
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        number = _number(value)
        if number is not None and not math.isfinite(number):
            raise UserError(f"{key}: a finite number is wanted here, not {number}")
        if number is not None:
            return number
    elif kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif (kind is bool and isinstance(value, bool)) or (kind is str and isinstance(value, str)):
        return value
    elif kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    wanted = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}[kind]
    raise UserError(f"{key}: {' or '.join([wanted, *words])} is wanted here, not {value!r}")


def _number(value: float | str) -> float | None:
    """YAML 1.1 reads 1e-8, without a dot, as a string."""
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class Strict(yaml.SafeLoader):
        """YAML itself lets the last of two equal keys win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            for place, (key, _) in enumerate(node.value):
                if key.value in keys[:place]:
                    raise UserError(f"{path}: line {key.start_mark.line + 1}: key {key.value!r} is there twice")
            return super().construct_mapping(node, deep)

    if path.is_dir():
        raise UserError(f"{path}: a folder; a config is a .yaml file")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Strict)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {_where(error)}not valid YAML ({_why(error)})") from None
    if not isinstance(settings, dict):
        found = "it is empty" if settings is None else f"it holds a {type(settings).__name__}"
        raise UserError(f"{path}: a config is lines of `key: value`, and {found}")
    return settings


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "


def _why(error: Exception) -> str:
    """PyYAML's reason without its quotation of the file."""
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return " ".join(str(why).split())


def apply(settings: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: write section.key=value")
    *sections, name = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise UserError(f"override {override!r}: {section!r} is not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    # Text is taken as it stands: YAML would cut it at " #" and read dates into it.
    settings[name] = value if isinstance(value, int | float | list | dict | None) else text


def in_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise UserError(f"{key}: must be {limit}, not {value}")
