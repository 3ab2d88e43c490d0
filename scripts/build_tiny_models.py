"""Build the tiny models that ship with the package. See docs/micro_world.md and docs/text_world.md.

    python scripts/build_tiny_models.py --work runs/build

It can be stopped and started again at any time. Add --only to build some of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    from diffdpo.shapes.build.everything import STEPS as SHAPES
    from diffdpo.shapes.build.everything import build_all
    from diffdpo.shapes.weights import FOLDER as SHAPES_FOLDER
    from diffdpo.words.build.language_model import STEPS as WORDS
    from diffdpo.words.build.language_model import build_words_lm
    from diffdpo.words.weights import FOLDER as WORDS_FOLDER

    names = [*SHAPES, *WORDS]
    parser = argparse.ArgumentParser(description="Train the tiny models that ship with diffdpo.")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the models go (default: to where the package has its own)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/build"), metavar="DIR", help="resumable state")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="build just these")
    args = parser.parse_args()
    if shapes := tuple(name for name in args.only if name in SHAPES):
        build_all(args.out or SHAPES_FOLDER, args.work, shapes)
    if set(args.only) & set(WORDS):
        build_words_lm(args.out or WORDS_FOLDER, args.work)


if __name__ == "__main__":
    main()
