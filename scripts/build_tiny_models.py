"""Build the tiny models that ship with the package. See docs/micro_world.md.

    python scripts/build_tiny_models.py --out diffdpo/shapes/weights --work runs/build

It can be stopped and started again at any time. Add --only to build some of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    from diffdpo.shapes.build.everything import STEPS, build_all

    parser = argparse.ArgumentParser(description="Train the tiny models that ship with diffdpo.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the models go")
    parser.add_argument("--work", type=Path, default=Path("runs/build"), metavar="DIR", help="resumable state")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), help="build just these")
    args = parser.parse_args()
    build_all(args.out, args.work, tuple(args.only))


if __name__ == "__main__":
    main()
