"""`diffdpo generate`: one image per prompt, into a folder; of a language model answers, see `generate_text`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diffdpo.commands.generate_text import TEXT_DEFAULTS, add_text_arguments, is_text, run_text, show_text
from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.labeling.generate import ModelImages
    from diffdpo.models.sampling import Sampling

HELP = "make one image per prompt, or answers with a language model"
IMAGE_DEFAULTS = {"steps": 50, "guidance": 7.5, "size": None, "compile": False}
"""Of the options that a language model has no use for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, model="a folder, a hub name, or a built-in one: shapes (images), words (language)")
    add_text_arguments(parser)
    parser.set_defaults(**dict.fromkeys((*IMAGE_DEFAULTS, *TEXT_DEFAULTS)))  # None: not given


def add_source_arguments(parser: argparse.ArgumentParser, *, model: str) -> None:
    """What `generate` and `label` share: the model, the prompts, how images are drawn and where they go."""
    parser.add_argument("--model", required=True, help=model)
    parser.add_argument("--lora", metavar="PATH", help="a LoRA folder or file for the model")
    parser.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help=".txt with one per line, .json, .jsonl, .csv, .tsv or .parquet",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make, or to go on with")
    parser.add_argument(
        "--steps", type=int, default=IMAGE_DEFAULTS["steps"], metavar="K", help="denoising steps (default: 50)"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=IMAGE_DEFAULTS["guidance"],
        metavar="G",
        help="classifier-free guidance scale (default: 7.5)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all images (default: 0)")
    parser.add_argument("--size", type=int, metavar="PX", help="edge of the square images (default: the model's own)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="images at a time (default: 8)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="fp32, bf16, fp16 of the model (default: fp16 on a CUDA GPU, else fp32)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="let torch compile the model's blocks, in minutes; meant for a GPU"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing, write nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.data.prompts import read_prompts
    from diffdpo.labeling.generate import generate_folder, generate_settings
    from diffdpo.runs import check_claim

    if is_text(args):
        _settle(args, TEXT_DEFAULTS, IMAGE_DEFAULTS, "a language model")
        return run_text(args)
    _settle(args, IMAGE_DEFAULTS, TEXT_DEFAULTS, "an image model")
    prompts = read_prompts(args.prompts, keep_duplicates=True)
    source = make_source(args, sampling_of(args), compiled=args.compile)
    if args.dry_run:
        state = check_claim(args.out, "generate", lambda: generate_settings(prompts, source.expected(), args.seed))
        return {
            "dry_run": True,
            "out": args.out,
            "images": len(prompts),
            "state": state,
            "model": source.where(),
            "memory_gb": source.memory_gb(),
        }
    return generate_folder(prompts, args.out, source, args.seed, inputs=[args.prompts])


def _settle(args: argparse.Namespace, own: dict[str, Any], foreign: dict[str, Any], kind: str) -> None:
    """Put the defaults where nothing was given, and refuse options of the other kind of model: none would hear them."""
    for name in foreign:
        if getattr(args, name) is not None:
            hint = "; name a hub's language model with --text" if kind == "an image model" else ""
            raise UserError(f"--{name.replace('_', '-')}: {args.model} is {kind}, which has no such option{hint}")
    for name, value in own.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def show(result: dict[str, Any]) -> None:
    if result.get("text"):
        show_text(result)
    elif result.get("dry_run"):
        print(f"would make {result['images']} images in {result['out']} ({result['state']})")
        print(f"model: {result['model']}")
        print(spell_memory(result["memory_gb"]))
    else:
        print(f"{result['images']} images in {result['out']}")


def spell_memory(gb: float | None) -> str:
    """A dry run's line on memory, for everything that draws images."""
    if gb is None:
        return "memory: not counted, the model is not here yet and would be fetched from the hub"
    return f"memory: {gb:.2g} GB for the model's weights; activations and scorers come on top"


def sampling_of(args: argparse.Namespace) -> Sampling:
    """How the arguments want images drawn.

    Raises:
        UserError: settings that make no sense.
    """
    from diffdpo.models.sampling import Sampling

    return Sampling(args.steps, args.guidance, args.size, args.batch_size)


def make_source(args: argparse.Namespace, sampling: Sampling, *, compiled: bool = False) -> ModelImages:
    """The images that the arguments ask for. Nothing is opened yet.

    Raises:
        UserError: no such model or LoRA, or no such device.
    """
    from diffdpo.devices import pick_device, pick_dtype
    from diffdpo.labeling.generate import ModelImages
    from diffdpo.shapes.weights import resolve_model

    path = resolve_model(args.model)
    device = pick_device(args.device)
    dtype = pick_dtype(args.precision, device)
    source = ModelImages(args.model, sampling, lora=args.lora, path=path, device=device, dtype=dtype, compiled=compiled)
    source.where()
    return source
