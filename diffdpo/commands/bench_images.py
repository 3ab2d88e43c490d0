"""`diffdpo bench` of images: draw or take those of a suite, and score them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.commands.generate import make_source, spell_memory
from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.benchmarks.registry import Suite
    from diffdpo.models.sampling import Sampling

OPTIONS = "of image suites"


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """The options that only these suites have."""
    parser.add_argument(
        "--scorer",
        action="append",
        metavar="S",
        help="NAME, or NAME=PATH for local weights (vlm-judge: a local model or a JSON file of options); "
        "give it again for more (default: those of the suite)",
    )
    parser.add_argument("--steps", type=int, metavar="K", help="denoising steps (default: the suite's)")
    parser.add_argument(
        "--guidance", type=float, metavar="G", help="classifier-free guidance scale (default: the suite's)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.suite import check_suite, run_suite
    from diffdpo.commands.judges import parse_names
    from diffdpo.devices import pick_device

    suite = _suite(args)
    weights = parse_names(args.scorer or suite.scorers)
    sampling = _sampling(args, suite)
    if args.model is None and args.lora is not None:
        raise UserError(f"--lora {args.lora}: goes with --model, not with --images")
    source = None if args.model is None else make_source(args, sampling)
    asked: dict[str, Any] = {"scorers": list(weights), "images": args.images, "limit": args.limit, "seed": args.seed}

    def settings() -> dict[str, Any]:
        local = {name: path for name, path in weights.items() if path is not None}
        return {"scorer_weights": local, **({} if source is None else _source(args, sampling))}

    if args.dry_run:
        state = check_suite(suite, args.out, **asked, settings=settings)
        plan = {"dry_run": True, "suite": suite.name, "images": len(suite.take(args.limit)), "state": state}
        plan |= {"scorers": list(weights), "out": args.out}
        return plan if source is None else {**plan, "memory_gb": source.memory_gb()}
    device = pick_device(args.device)

    def load_scorer(name: str) -> Any:
        import scorers

        return scorers.load(name, model=weights[name], device=device)

    result = run_suite(
        suite,
        args.out,
        draw=source,
        load_scorer=load_scorer,
        batch_size=args.batch_size,
        settings=settings(),
        **asked,
    )
    return {"out": args.out, **result.summary}


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        where = f"{result['out']} ({result['state']})"
        print(f"would score {result['images']} images of suite {result['suite']} in {where}")
        print(f"scorers: {', '.join(result['scorers'])}")
        if "memory_gb" in result:
            print(spell_memory(result["memory_gb"]))
        return
    from diffdpo.benchmarks.tables import summary_table

    print(f"{result['prompts']} {result['title']}, in {result['out']}")
    print(summary_table(result))


def _suite(args: argparse.Namespace) -> Suite:
    from diffdpo.benchmarks import own_prompts, registry

    if args.suite == own_prompts.NAME:
        if args.prompts is None:
            raise UserError("bench prompts: name the file with --prompts FILE")
        return own_prompts.suite(args.prompts)
    if args.prompts is not None:
        raise UserError(
            f"--prompts {args.prompts}: the suite {args.suite!r} has its own; for these say `bench prompts`"
        )
    return registry.find(args.suite)


def _sampling(args: argparse.Namespace, suite: Suite) -> Sampling:
    from diffdpo.models.sampling import Sampling

    return Sampling(
        steps=suite.steps if args.steps is None else args.steps,
        guidance=suite.guidance if args.guidance is None else args.guidance,
        batch_size=args.batch_size,
    )


def _source(args: argparse.Namespace, sampling: Sampling) -> dict[str, Any]:
    """What decides the images. Local weights count by their content: a folder may be trained over."""
    from diffdpo.devices import pick_device, pick_dtype
    from diffdpo.runs import content_hash
    from diffdpo.shapes.weights import resolve_model

    dtype = pick_dtype(args.precision, pick_device(args.device))

    def local_hash(path: str | None) -> str | None:
        return content_hash(path) if path is not None and Path(path).exists() else None

    return {
        "model": args.model,
        "model_sha256": local_hash(resolve_model(args.model)),
        "lora": args.lora,
        "lora_sha256": local_hash(args.lora),
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "precision": str(dtype).removeprefix("torch."),
    }
