"""Finds a config file: as a path, or by name among those that come with the package."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from diffdpo.errors import UserError, unknown


def find_config(path: str) -> Path:
    """`configs/x.yaml` and `x.yaml` mean the file given, or where there is none the shipped recipe x.

    Raises:
        UserError: neither is there.
    """
    given = Path(path)
    if given.exists():
        return given
    found = _shipped()
    if given.name in found and given.parent.name in ("", "configs") and not given.is_absolute():
        return found[given.name]
    if given.suffix not in (".yaml", ".yml"):
        raise UserError(f"{path}: no such config file; a config is a .yaml file")
    raise unknown("config file", path, [f"configs/{name}" for name in found])


def shipped_config(name: str) -> str:
    """How `find_config` is asked for a shipped recipe here, even where a file of that name is in the way."""
    usual, shipped = f"configs/{name}", _shipped()[name]
    return usual if find_config(usual).samefile(shipped) else str(shipped)


def shipped() -> list[str]:
    """How each shipped recipe may be named to `find_config`."""
    return [f"configs/{name}" for name in _shipped()]


def _shipped() -> dict[str, Path]:
    """By name: beside the package in a checkout, below share/ in an installation."""
    root = Path(__file__).parents[1]
    # In an installation the folder beside the package is site-packages, and a `configs` there is somebody else's.
    in_checkout = (root / "pyproject.toml").is_file()
    folder = root / "configs" if in_checkout else Path(sysconfig.get_path("data")) / "share/diffdpo/configs"
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}
