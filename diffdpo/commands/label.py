"""`diffdpo label`: prompts to a triplet store, by a model and scorers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diffdpo.commands.generate import add_source_arguments, make_source, sampling_of, spell_memory
from diffdpo.commands.judges import SCORER_HELP

if TYPE_CHECKING:
    from diffdpo.data.prompts import Prompt
    from diffdpo.labeling.generate import ModelImages
    from diffdpo.labeling.stages import Labeling

HELP = "make preference pairs: candidates per prompt, scored and paired"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, model="a diffusers folder or file, a hub name, or `shapes`, the built-in one")
    parser.add_argument(
        "--scorer",
        action="append",
        required=True,
        metavar="S",
        help=SCORER_HELP,
    )
    parser.add_argument("--candidates", type=int, default=4, metavar="N", help="images per prompt (default: 4)")
    parser.add_argument("--pairs", default="best-worst", help="best-worst (default) or all two of a prompt")
    parser.add_argument(
        "--min-margin",
        type=float,
        default=0.0,
        metavar="X",
        help="leave out closer pairs (default: 0, keep all)",
    )
    parser.add_argument(
        "--shard-size",
        type=int,
        default=64,
        metavar="P",
        help="prompts per file and per restart point (default: 64)",
    )
    parser.add_argument(
        "--combine",
        default="weighted",
        metavar="HOW",
        help="how several scorers decide: weighted (default), rank, pareto or first",
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=(),
        metavar="W",
        help="one per scorer, in their order, for weighted and rank (default: all equal)",
    )
    parser.add_argument("--keep-images", action="store_true", help="keep every candidate below DIR/images")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.commands.judges import load_scorers
    from diffdpo.data.prompts import read_prompts
    from diffdpo.labeling.agreement import in_words
    from diffdpo.labeling.pair import check_combination
    from diffdpo.labeling.stages import Labeling, label
    from diffdpo.progress import say

    how = Labeling(
        candidates=args.candidates,
        seed=args.seed,
        pairs=args.pairs,
        min_margin=args.min_margin,
        shard_size=args.shard_size,
        keep_images=args.keep_images,
        combine=args.combine,
        weights=tuple(args.weights),
    )
    check_combination(how.combine, how.weights, len(args.scorer))
    prompts = read_prompts(args.prompts)
    source = make_source(args, sampling_of(args), compiled=args.compile)
    if args.dry_run:
        return _plan(args, prompts, how, source)
    judges = load_scorers(args.scorer, source.device)
    results = label(prompts, args.out, source, judges, how, inputs=[args.prompts])
    if "agreement" in results:
        say(in_words(results["agreement"]))
    return {"out": args.out, **results}


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would make {result['images']} images and at most {result['pairs_at_most']} pairs")
        print(f"shards: {result['shards']}, in {result['out']} ({result['state']})")
        print(f"model: {result['model']}; scorers: {', '.join(result['scorers'])}")
        print(spell_memory(result["memory_gb"]))
        return
    pairs = f"{result['pairs']} pairs ({result['ties']} ties)"
    print(f"{pairs} of {result['prompts']} prompts in {result['out']}")
    if result["prompts_without_pair"]:
        why = "their margins are below --min-margin, or the scorers of --combine pareto disagree"
        print(f"{result['prompts_without_pair']} prompts gave no pair: {why}")
    print(f"mean margin {result['mean_margin']:.4g}")
    for name, mean in result["mean_scores"].items():
        print(f"mean {name} of {result['images']} images: {mean:.4g}")


def _plan(args: argparse.Namespace, prompts: list[Prompt], how: Labeling, source: ModelImages) -> dict[str, Any]:
    from diffdpo.commands.judges import parse_names
    from diffdpo.labeling.stages import label_settings
    from diffdpo.runs import UNREAD, check_claim

    scorers, n_prompts = parse_names(args.scorer), len(prompts)
    unread = dict.fromkeys(scorers, UNREAD)
    state = check_claim(args.out, "label", lambda: label_settings(prompts, source.expected(), unread, how))
    per_prompt = 1 if how.pairs == "best-worst" else how.candidates * (how.candidates - 1) // 2
    return {
        "dry_run": True,
        "out": args.out,
        "state": state,
        "prompts": n_prompts,
        "images": n_prompts * how.candidates,
        "pairs_at_most": n_prompts * per_prompt,
        "shards": -(-n_prompts // how.shard_size),
        "model": source.where(),
        "memory_gb": source.memory_gb(),
        "scorers": list(scorers),
    }
