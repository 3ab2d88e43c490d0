"""`diffdpo frontier`: what several tuned language models earn against how far they went, as a table and a plot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.benchmarks.frontier.points import Measured, Point

HELP = "draw reward against KL of several `bench text` runs"
PLOT = "frontier.svg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a folder of `diffdpo bench text`, or METHOD:SETTING=FOLDER, such as ppo:0.1=runs/a; runs of one method "
        "and setting are averaged, those of one method joined by a line",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where frontier.md, .csv and .svg go")
    parser.add_argument("--dry-run", action="store_true", help="check that the runs go together, write nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.frontier.points import markdown, points
    from diffdpo.benchmarks.frontier.runs import named, read_runs
    from diffdpo.runs import check_place

    out = Path(args.out)
    runs, axis = read_runs([named(given) for given in args.runs])
    check_place(out)
    result = {"out": args.out, "plot": str(out / PLOT), "table": list(markdown(points(runs)))}
    if args.dry_run:
        return {"dry_run": True, "runs": len(args.runs), **result}
    out.mkdir(parents=True, exist_ok=True)
    write_frontier(out, runs, axis)
    return result


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would draw {result['runs']} runs into {result['plot']}")
        return
    print("\n".join(result["table"]))
    print(f"\nplot: {result['plot']}")


def write_frontier(out: Path, runs: Sequence[Measured], axis: str = "exact reward") -> list[Point]:
    """`frontier.md`, `frontier.csv` and `frontier.svg` in `out`."""
    from diffdpo.benchmarks.frontier.plot import frontier_plot
    from diffdpo.benchmarks.frontier.points import comma_separated, markdown, points
    from diffdpo.runs import write_bytes

    found = points(runs)
    write_bytes(out / "frontier.md", "".join(f"{line}\n" for line in markdown(found)).encode())
    write_bytes(out / "frontier.csv", comma_separated(found).encode())
    write_bytes(out / PLOT, frontier_plot(found, axis).encode())
    return found
