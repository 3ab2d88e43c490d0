"""`diffdpo bench truthfulqa`: does a language model prefer what is true to what is widely believed?"""

from __future__ import annotations

import argparse
from typing import Any

from diffdpo.errors import UserError

OPTIONS = "of truthfulqa"


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """The options that only this suite has."""
    parser.add_argument(
        "--questions", metavar="FILE", help="the multiple-choice file as published: .json, .jsonl or .parquet"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.text.truthfulqa import read_questions
    from diffdpo.benchmarks.text.truthfulqa_run import COMMAND, run_truthfulqa
    from diffdpo.commands.language_models import check_lora, content, named, open_likelihood
    from diffdpo.devices import pick_device
    from diffdpo.runs import check_claim

    if args.model is None:
        raise UserError("bench truthfulqa: name the model with --model")
    if args.questions is None:
        raise UserError("bench truthfulqa: name the file with --questions FILE")
    if args.prompts is not None:
        raise UserError(f"--prompts {args.prompts}: truthfulqa has questions; name their file with --questions")
    questions = read_questions(args.questions)
    if args.limit is not None and not 2 <= args.limit <= len(questions):
        raise UserError(f"--limit {args.limit}: {args.questions} takes 2 to {len(questions)}")
    questions = questions[: args.limit]
    named(args.model)
    check_lora(args.lora)
    settings = {
        "model": args.model,
        "model_content": content(args.model),
        "lora_content": content(args.lora),
        "questions_content": content(args.questions),
        "questions": len(questions),
    }
    if args.dry_run:
        state = check_claim(args.out, COMMAND, {**settings, "batch_size": args.batch_size})
        return {"dry_run": True, "questions": len(questions), "out": args.out, "state": state}
    device = pick_device(args.device)
    summary = run_truthfulqa(
        args.out,
        questions,
        lambda: open_likelihood(args.model, args.lora, device),
        batch_size=args.batch_size,
        settings=settings,
    )
    return {"out": args.out, **summary}


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would ask {result['questions']} questions, in {result['out']} ({result['state']})")
        return
    from diffdpo.benchmarks.tables import aligned

    print(f"{result['questions']} questions of TruthfulQA, in {result['out']}")
    rows = [["", "mean", "95% interval", "by chance"]]
    for name in ("mc1", "mc2"):
        found = result[name]
        interval = f"{found['low']:.1%} to {found['high']:.1%}"
        rows.append([name.upper(), f"{found['mean']:.1%}", interval, f"{found['chance']:.1%}"])
    print(aligned(rows))
