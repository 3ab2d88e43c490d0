"""`diffdpo bench text`: a language model against a fixed baseline on the same prompts and seeds."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.benchmarks.text.likelihood import Likelihood
    from diffdpo.benchmarks.text.suite import TextSuite
    from diffdpo.data.text.records import Prompt, Query

OPTIONS = "of text"
BUILT_IN = "words"
"""Held-out prompts and plain texts of the text world."""
N_PROMPTS, N_TEXTS = 128, 200


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """The options that only this suite has."""
    parser.add_argument("--baseline", metavar="B", help="the model to be compared with, such as the one before tuning")
    parser.add_argument(
        "--judge", metavar="J", help="a reward model's folder, a program such as `words`, or an endpoint's .json"
    )
    parser.add_argument("--reference", metavar="R", help="the model that the KL is measured from (default: B)")
    parser.add_argument("--texts", metavar="FILE", help="plain texts for the perplexity (default: the text world's)")
    parser.add_argument("--filter", metavar="F", help="also flag: a .txt of words, or a classifier as PATH=LABEL,LABEL")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of an answer (default: 128)")
    parser.add_argument("--temperature", type=float, metavar="T", help="of drawing; 0 is the likeliest (default: 1)")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest of this share (default: 1)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.text.suite import COMMAND, Contestants, run_text_suite
    from diffdpo.commands.text_judges import open_judge
    from diffdpo.devices import pick_device
    from diffdpo.runs import check_claim

    suite, settings = _checked(args)
    if args.dry_run:
        state = check_claim(args.out, COMMAND, settings)
        return {"dry_run": True, "prompts": len(suite.prompts), "texts": len(suite.texts), **_where(args, state)}
    device = pick_device(args.device)

    def opens(model: str, lora: str | None = None) -> Callable[[], Likelihood]:
        from diffdpo.commands.language_models import open_likelihood

        return lambda: open_likelihood(model, lora, device)

    def open_filter() -> Any:
        from diffdpo.training.text.filtering import open_moderator

        return open_moderator(args.filter, device)

    baseline = opens(args.baseline)
    other = baseline if args.reference in (None, args.baseline) else opens(args.reference)
    summary = run_text_suite(
        args.out,
        suite,
        Contestants(opens(args.model, args.lora), baseline, other if settings["kl"] else None),
        lambda: open_judge(args.judge, device),
        open_filter if args.filter else None,
        settings=settings,
    )
    return {"judge": args.judge, "out": args.out, **summary}


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(
            f"would answer {result['prompts']} prompts with both models and read {result['texts']} plain texts, in "
            f"{result['out']} ({result['state']})"
        )
        return
    from diffdpo.benchmarks.text.table import told

    print(told(result))


def _checked(args: argparse.Namespace) -> tuple[TextSuite, dict[str, Any]]:
    """The suite, and all that decides the results, before anything is loaded."""
    from diffdpo.benchmarks.text.suite import TextSuite
    from diffdpo.commands.language_models import check_lora, check_room, content, named
    from diffdpo.commands.text_judges import check_judge
    from diffdpo.models.text.generation import Decoding
    from diffdpo.training.text.filtering import open_moderator

    for name in ("model", "baseline", "judge"):
        if getattr(args, name) is None:
            raise UserError(f"bench text: give --{name}; see diffdpo bench --help")
    queries, texts = _prompts(args), _texts(args)
    prompts = [query.prompt for query in queries]
    given = {"max_tokens": args.max_tokens, "temperature": args.temperature, "top_p": args.top_p}
    decoding = Decoding(batch_size=args.batch_size, **{key: value for key, value in given.items() if value is not None})
    models = {"model": args.model, "baseline": args.baseline, "reference": args.reference or args.baseline}
    for path in models.values():
        named(path)
    check_lora(args.lora)
    judge = check_judge(args.judge)
    if args.filter is not None:
        open_moderator(args.filter)  # and let go: what cannot be opened costs no answers
    for model in dict.fromkeys(models.values()):
        check_room(model, queries, decoding.max_tokens)
    path, _, labels = (args.filter or "").partition("=")
    settings = {
        **{name: {"name": path, "content": content(path)} for name, path in models.items()},
        "lora_content": content(args.lora),
        "judge": judge,
        "prompts": {"number": len(prompts), "content": _hash([repr(prompt) for prompt in prompts])},
        "texts": {"number": len(texts), "content": _hash(texts)},
        "decoding": vars(decoding),
        "seed": args.seed,
        "kl": _comparable(args),
        "filter": {"content": content(path), "labels": labels} if args.filter else None,
    }
    return TextSuite(prompts, texts, decoding, args.seed), settings


def _comparable(args: argparse.Namespace) -> bool:
    """Whether answers are drawn from the whole distribution of a model with the reference's tokens: else there is no KL
    to be had from them."""
    from diffdpo.commands.language_models import named
    from diffdpo.models.text.loading import load_tokenizer
    from diffdpo.progress import say

    other = args.reference or args.baseline
    if args.temperature == 0 or args.top_p not in (None, 1.0):
        say(
            "no KL: with --temperature 0 or --top-p below 1 the answers are not drawn from the model's own distribution"
        )
        return False
    same = args.model == other or bool(
        load_tokenizer(named(args.model)).get_vocab() == load_tokenizer(named(other)).get_vocab()
    )
    if not same and args.reference is not None:
        raise UserError(f"--reference {other}: has other tokens than {args.model}, so there is no KL between them")
    if not same:
        say(f"no KL: {other} has other tokens than {args.model}; --reference may name a model of the same tokens")
    return same


def _prompts(args: argparse.Namespace) -> list[Query]:
    from diffdpo.data.text.records import Query

    if args.prompts in (None, BUILT_IN):
        from diffdpo.words.review import all_prompts

        every = [str(prompt) for prompt in all_prompts(held_out=True)]
        shuffled = random.Random(0).sample(every, len(every))  # the first of them of many subjects
        found: Sequence[Query] = [Query(f"--prompts {BUILT_IN}", prompt) for prompt in shuffled]
    else:
        found = _read_prompts(args.prompts)
    limit = min(N_PROMPTS, len(found)) if args.limit is None and args.prompts is None else args.limit
    if len(found) < 2 or (limit is not None and not 2 <= limit <= len(found)):
        raise UserError(f"--prompts: {len(found)} prompts there; an interval takes 2 at least, --limit at most so many")
    return list(found[:limit])


def _read_prompts(path: str) -> list[Query]:
    """The prompts of a file, each once."""
    from diffdpo.commands.generate_text import read_queries
    from diffdpo.progress import say

    found = read_queries(path)
    first: dict[Prompt, Query] = {}
    for query in found:
        first.setdefault(query.prompt, query)
    prompts = list(first.values())
    if len(prompts) < len(found):
        say(f"{path}: {len(found) - len(prompts)} of {len(found)} prompts are repeated; each is kept once")
    return prompts


def _texts(args: argparse.Namespace) -> list[str]:
    if args.texts in (None, BUILT_IN):
        from diffdpo.words.corpus import draw_texts

        return draw_texts(N_TEXTS, seed=args.seed, source="general", held_out=True)
    from diffdpo.data.text.readers import open_text
    from diffdpo.data.text.records import Document
    from diffdpo.progress import say

    records = open_text(args.texts).records
    texts = [record.text for record in records if isinstance(record, Document)]
    if len(texts) < len(records):
        say(f"--texts {args.texts}: {len(records) - len(texts)} of {len(records)} rows have no 'text' and are left out")
    if len(texts) < 2:
        raise UserError(f"--texts {args.texts}: {len(texts)} rows with a 'text'; an interval takes 2 at least")
    return texts


def _where(args: argparse.Namespace, state: str) -> dict[str, Any]:
    return {"judge": args.judge, "out": args.out, "state": state}


def _hash(texts: Sequence[str]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
