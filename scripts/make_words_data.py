"""Write records of the text world to tune on. See docs/text_world.md.

    python scripts/make_words_data.py --out runs/words --seed 0

Makes demonstrations, pairs, rankings, texts and prompts, each a folder with train.jsonl and test.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    from diffdpo.words.records import MAKERS, write_records

    parser = argparse.ArgumentParser(description="Write records of the text world to tune on.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the folders go")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other records (default: 0)")
    parser.add_argument("--n", type=int, default=4000, metavar="N", help="training records of each kind")
    parser.add_argument("--held-out", type=int, default=500, metavar="N", help="held-out records of each kind")
    args = parser.parse_args()
    write_records(args.out, dict.fromkeys(MAKERS, args.n), seed=args.seed, n_held_out=args.held_out)


if __name__ == "__main__":
    main()
