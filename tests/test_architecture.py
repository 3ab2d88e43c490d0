"""Who may import whom, read from the imports themselves; and no circle anywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FREE = {"errors", "runs", "locks", "progress", "devices", "collector"}
"""Small modules that anybody may use."""

MAY_IMPORT: dict[str, set[str]] = {
    "losses": set(),
    "objectives": set(),
    "models": {"objectives"},
    "data": set(),
    "labeling": {"models", "data", "scorers"},
    "training": {"losses", "objectives", "models", "data", "config"},
    "benchmarks": {"models", "data", "scorers", "shapes", "words"},
    "shapes": {"scorers", "fit"},
    "words": {"fit"},
    "fit": set(),
    "config": set(),
    "recipes": set(),
    "commands": {
        "losses",
        "labeling",
        "training",
        "benchmarks",
        "models",
        "data",
        "shapes",
        "words",
        "scorers",
        "config",
        "recipes",
    },
    "cli": {"commands", "scorers"},
    "__main__": {"cli"},
}
ONLY_IN: dict[str, set[str]] = {
    "accelerate": {"training"},
    "pyarrow": {"data", "scorers"},
    "open_clip": {"scorers", "shapes"},
}
"""Where a package may be imported. `shapes` builds a tiny open_clip model, once; `scorers`, which must not know
`data`, reads published test sets in Parquet."""
TORCH_ONLY = ("losses", "objectives")


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("diffdpo/**/*.py"), *ROOT.glob("scorers/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Full names of what a file imports, in functions too unless `top_level`; not what only types need."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(tree.body) if top_level else list(ast.walk(tree))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "scorers" else parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("module", sorted(modules()))
def test_rooms_import_only_what_they_may(module):
    here = room(module)
    allowed = MAY_IMPORT.get(here, set()) | FREE | {here}
    for name in imports(modules()[module]):
        if name.startswith("diffdpo."):
            assert here != "scorers", f"{module} imports {name}: scorers know nothing of diffdpo"
            there = room(name)
            inside = f"diffdpo.{there}" in packages()  # `from diffdpo import __version__` is nobody's room
            assert there in allowed or not inside, f"{module} imports {name}"
        elif name.split(".")[0] == "scorers" and here != "scorers":
            assert "scorers" in allowed, f"{module} imports {name}"


def packages() -> set[str]:
    return {".".join(name.split(".")[:2]) for name in modules()}


@pytest.mark.parametrize(("package", "rooms"), ONLY_IN.items())
def test_packages_stay_in_their_rooms(package, rooms):
    users = {module for module, path in modules().items() if any(n.split(".")[0] == package for n in imports(path))}
    assert users, f"nobody imports {package}: remove it from this test"
    assert {room(module) for module in users} <= rooms


@pytest.mark.parametrize("here", TORCH_ONLY)
def test_pure_rooms_import_torch_and_the_standard_library_only(here):
    import sys

    for module, path in modules().items():
        if room(module) == here:
            roots = {name.split(".")[0] for name in imports(path)} - {"diffdpo", "torch"}
            assert roots <= set(sys.stdlib_module_names), f"{module} imports {roots}"


def test_no_import_circle():
    """Over imports at the top of files: those inside functions cannot close a circle at import time."""
    known = modules()
    graph = {
        m: {t for name in imports(p, top_level=True) if (t := target(name, known)) and t != m} for m, p in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle: {' -> '.join((*trail, module))}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def target(name: str, known: dict[str, Path]) -> str | None:
    return name if name in known else parent if (parent := name.rpartition(".")[0]) in known else None
