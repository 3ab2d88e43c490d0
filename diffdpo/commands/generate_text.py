"""`diffdpo generate` with a language model: answers to prompts, or the best of several by a reward."""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.data.text.records import Query
    from diffdpo.labeling.answers import Writer
    from diffdpo.models.text.generation import Decoding

TABLES = (".txt", ".csv", ".tsv", ".json")
"""Prompts as the image half reads them; other files are read as records, which keeps spaces and conversations."""

TEXT_DEFAULTS = {
    "answers": 1,
    "best_by": None,
    "rank_by": None,
    "max_tokens": 128,
    "temperature": 1.0,
    "top_p": 1.0,
    "end_token": None,
}
"""Of the options that only a language model has."""


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of a language model")
    group.add_argument("--text", action="store_true", help="a hub name is one of a language model")
    group.add_argument("--answers", type=int, metavar="N", help="answers to each prompt (default: 1)")
    kept = group.add_mutually_exclusive_group()
    kept.add_argument("--best-by", metavar="REWARD", help="keep the best of them alone: a reward model, or `words`")
    kept.add_argument("--rank-by", metavar="REWARD", help="write them as rankings, to train on")
    group.add_argument("--max-tokens", type=int, metavar="T", help="of an answer (default: 128)")
    group.add_argument("--temperature", type=float, metavar="X", help="0: the likeliest (default: 1)")
    group.add_argument("--top-p", type=float, metavar="P", help="share of the nucleus (default: 1)")
    group.add_argument("--end-token", metavar="TOKEN", help="what ends an answer (default: the tokenizer's own)")


def is_text(args: argparse.Namespace) -> bool:
    """Whether the model is a language model, by what lies at its path."""
    from diffdpo.models.text.packaged import PACKAGES

    path = Path(args.model)
    in_folder = (path / "config.json").is_file() and not (path / "model_index.json").is_file()
    built_in = args.model in ("words", *PACKAGES)
    return bool(args.text or built_in or path.suffix == ".gguf" or in_folder)


def run_text(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.commands.language_models import check_room
    from diffdpo.commands.rewards import check_reward
    from diffdpo.labeling.answers import Request, answer_folder, folder_settings
    from diffdpo.models.text.generation import Decoding
    from diffdpo.runs import check_claim

    reward = args.best_by or args.rank_by
    request = Request(args.answers, "best" if args.best_by else "ranking" if args.rank_by else "all", args.seed)
    decoding = Decoding(args.max_tokens, args.temperature, args.top_p, args.batch_size)
    if reward is not None:
        check_reward(reward)
    queries, settings = read_queries(args.prompts), _settings(args, reward)
    check_room(args.model, queries, decoding.max_tokens, args.end_token)
    prompts = [query.prompt for query in queries]
    inputs = [args.prompts] if Path(args.prompts).is_file() else []
    if args.dry_run:
        state = check_claim(args.out, "generate", lambda: folder_settings(prompts, request, settings))
        n = len(prompts) * request.rows
        return {"dry_run": True, "text": True, "out": args.out, "lines": n, "state": state, "model": args.model}
    writer = partial(_writer, args, decoding, reward)
    done = answer_folder(prompts, args.out, writer, request, settings, inputs=inputs)
    return {"text": True, "ranked": request.keep == "ranking", **done}


def show_text(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would write {result['lines']} lines with {result['model']} into {result['out']} ({result['state']})")
        return
    print(f"{result['lines']} lines in {Path(result['out']) / 'answers-*.jsonl'}")
    if result["unended"]:
        which = "answers are in no ranking, since they or all others to their prompt" if result["ranked"] else "of them"
        print(f"{result['unended']} {which} did not end within --max-tokens")


def read_queries(path: str) -> list[Query]:
    """The prompts of a file, or of a folder of records, as often as they occur.

    Raises:
        UserError: none there, or something that is no prompt.
    """
    from diffdpo.data.prompts import read_prompts
    from diffdpo.data.text.purposes import items
    from diffdpo.data.text.readers import open_text
    from diffdpo.data.text.records import Query
    from diffdpo.progress import say

    if Path(path).suffix.lower() in TABLES:
        found = read_prompts(path, keep_duplicates=True)
        return [Query(f"{path}: prompt {number}", prompt.text) for number, prompt in enumerate(found, 1)]
    dropped: Counter[str] = Counter()
    every = [item for record in open_text(path).records for item in items(record, "prompts", dropped)]
    for reason, number in dropped.items():
        say(f"{path}: {number} left out for {reason}")
    if not every:
        raise UserError(f"{path}: no prompt in it")
    return [item for item in every if isinstance(item, Query)]


def _settings(args: argparse.Namespace, reward: str | None) -> dict[str, Any]:
    """All that decides an answer beside its prompt and its number."""
    from diffdpo.commands.language_models import content

    parts = {
        "model": content(args.model),
        "lora": content(args.lora),
        "reward": content(reward),
    }
    names = ("max_tokens", "temperature", "top_p", "batch_size", "end_token", "precision")
    return {**parts, **{name: vars(args)[name] for name in names}}


def _writer(args: argparse.Namespace, decoding: Decoding, reward: str | None) -> Writer:
    from diffdpo.commands.rewards import open_reward
    from diffdpo.data.text.tokens import Encoder
    from diffdpo.devices import pick_device, pick_dtype
    from diffdpo.labeling.answers import Writer
    from diffdpo.models.lora import merge_text_lora
    from diffdpo.models.text.causal_lm import CausalLM
    from diffdpo.words.weights import resolve_model

    device = pick_device(args.device)
    model = CausalLM(resolve_model(args.model), device=device)
    if args.lora is not None:
        merge_text_lora(model.lm, args.lora)
    model.lm.to(pick_dtype(args.precision, device))
    encoder = Encoder.of(model.tokenizer, args.model, args.end_token)
    return Writer(model, encoder, decoding, open_reward(reward, device) if reward else None)
