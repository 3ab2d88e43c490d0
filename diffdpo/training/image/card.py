"""The model card beside exported weights: a README for people and for the Hugging Face hub.

Every figure in it is read from the run's own record. What the record does not tell is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffdpo.models.export.form import Form
from diffdpo.runs import read_json, read_manifest
from diffdpo.training.folder import CONFIG
from diffdpo.training.image.loading import loading
from diffdpo.training.metrics import read_metrics

FILE = "README.md"

_METHODS = {
    "dpo": ("Diffusion-DPO (Wallace et al. 2023)", "2311.12908"),
    "kto": ("Diffusion-KTO (Li et al. 2024)", "2404.04465"),
    "mapo": ("MaPO (Hong et al. 2024)", "2406.06424"),
    "sft": ("fine-tuning on the preferred images", None),
}
_FAMILY_TAGS = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}


@dataclass(frozen=True)
class Record:
    """What a run's folder tells of the weights of one step."""

    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    metrics: Sequence[Mapping[str, float]]
    results: Mapping[str, Any]
    """What the manifest records when the run is finished."""
    step: int

    @classmethod
    def read(cls, folder: Path, step: int, results: Mapping[str, Any] | None = None) -> Record:
        """Read a run's folder.

        Args:
            step: that the weights are from; later figures are not theirs.
            results: of a run that is just being finished, in place of those in its manifest.
        """
        manifest = read_manifest(folder)
        rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["step"] <= step]
        known = manifest.get("results", {}) if results is None else results
        return cls(read_json(folder / CONFIG), manifest, rows, known, step)

    @property
    def base(self) -> str:
        """The base model: its hub name, or the name of a local file or folder without the way to it."""
        return str(self.config["model"]["path"]) if self.hub else Path(self.config["model"]["path"]).name

    @property
    def hub(self) -> bool:
        """Whether the base model has a hub name: a local one is recorded by its content."""
        return bool(self.manifest["settings"]["content"]["model"] == self.config["model"]["path"])

    @property
    def lora(self) -> bool:
        return bool(self.config["lora"]["rank"])


def write_card(
    place: Path, record: Record, form: Form, pipeline_class: str, title: str, evaluation: Sequence[str] = ()
) -> None:
    """Write the card into a folder of exported weights.

    Args:
        pipeline_class: the diffusers class that the base model opens as.
        evaluation: lines of Markdown on how it was measured.
    """
    text = card(record, form, pipeline_class, title, evaluation)
    (place / FILE).write_text(text, encoding="utf-8")


def card(record: Record, form: Form, pipeline_class: str, title: str, evaluation: Sequence[str] = ()) -> str:
    """The card: YAML for the hub, then Markdown."""
    adapter = record.lora and not form.merge
    sections = {
        "How to load it": loading(form, adapter, pipeline_class, record.base if record.hub else None),
        **trained(record),
        "Evaluation": list(evaluation),
        "Limitations": _limitations(record, bool(evaluation)),
        "Made with": [", ".join(f"{name} {version}" for name, version in record.manifest["versions"].items())],
    }
    body = [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items() if lines]
    front = yaml.safe_dump(_front(record, form, adapter, pipeline_class), sort_keys=False, allow_unicode=True)
    return "\n\n".join([f"---\n{front}---", f"# {title}", _summary(record, form, adapter), *body]) + "\n"


def trained(record: Record) -> dict[str, list[str]]:
    """What a run tells of its training: a heading -> lines of Markdown."""
    return {"How it was trained": _training(record), "Held-out accuracy": _accuracy(record)}


def _front(record: Record, form: Form, adapter: bool, pipeline_class: str) -> dict[str, Any]:
    method = record.config["method"]
    arxiv = _method(method)[1]
    tags = ["text-to-image", _FAMILY_TAGS[pipeline_class], *["lora"] * adapter, "preference-tuning", method]
    front: dict[str, Any] = {"pipeline_tag": "text-to-image"}
    if not (form.kind == "kohya" and pipeline_class == "StableDiffusion3Pipeline"):  # which diffusers cannot read
        front["library_name"] = "diffusers"
    if record.hub:
        front |= {"base_model": record.base, "base_model_relation": "adapter" if adapter else "finetune"}
    return {**front, "tags": [*tags, *([f"arxiv:{arxiv}"] if arxiv else [])]}


def _summary(record: Record, form: Form, adapter: bool) -> str:
    base = f"[{record.base}](https://huggingface.co/{record.base})" if record.hub else f"`{record.base}`"
    what = "A LoRA for" if adapter else "A LoRA merged into" if form.merge else "The whole of"
    return f"{what} {base}, tuned by {_method(record.config['method'])[0]} with diffdpo."


def _method(name: str) -> tuple[str, str | None]:
    """What it is called in words, and its paper's number on arXiv."""
    return _METHODS.get(name, (f"`{name}`", None))


def _training(record: Record) -> list[str]:
    settings, training, data = record.config, record.config["training"], record.config["data"]
    content = record.manifest["settings"]["content"]
    per_step = record.manifest["settings"]["training"]  # of all processes; the config tells of one of them
    rows: list[tuple[str, Any]] = [
        ("method", settings["method"]),
        *((f"loss: {name.replace('_', ' ')}", value) for name, value in settings["loss"].items()),
        ("base model, SHA-256", None if record.hub else content["model"]),
        ("preference pairs, SHA-256", content["data"]),
        ("pairs trained on", record.results.get("pairs")),
        ("held-out pairs looked at", record.results.get("held_out_pairs")),
        ("labeled by", ", ".join(record.results.get("labelers", [])) or None),
        ("image size", data["size"] and f"{data['size']} pixels"),
        ("steps", f"{record.step} of {training['steps']}"),
        ("pairs per step", per_step["batch_size"] * per_step["accumulation"]),
        ("learning rate", f"{training['learning_rate']:g}, {training['schedule']}"),
        ("warm-up steps", training["warmup_steps"]),
        ("optimizer", training["optimizer"]),
        ("precision of training", training["precision"]),
        ("average of the weights, decay", training["ema"]),
        ("LoRA rank", settings["lora"]["rank"] or None),
        ("LoRA alpha", (settings["lora"]["alpha"] or settings["lora"]["rank"]) if record.lora else None),
        ("seed", settings["seed"]),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {_plain(value)} |" for name, value in rows if value is not None)]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _accuracy(record: Record) -> list[str]:
    found = next((row for row in reversed(record.metrics) if "eval/accuracy" in row), None)
    if found is None:
        return []
    pairs = record.results.get("held_out_pairs")
    of = f" of {pairs} pairs" if pairs else ""
    told = f"**{100 * found['eval/accuracy']:.1f}%**{of} that were not trained on, at step {found['step']:.0f}."
    if record.config["method"] in ("dpo", "kto"):
        return [
            told,
            "",
            "A pair counts if training moved the model towards the preferred image more than towards the other one."
            " Half of them would count by chance. It says that the preference was learned, not that images got better.",
        ]
    return [
        told,
        "",
        "A pair counts if the model restores the preferred image from noise better than the other one. It says which"
        " images the model is closer to, not that its own got better.",
    ]


def _limitations(record: Record, evaluated: bool) -> list[str]:
    labelers = record.results.get("labelers")
    judge = f"{', '.join(labelers)} preferred" if labelers else "the labels of its pairs preferred"
    return [
        f"- It was tuned towards what {judge}; the tastes and blind spots behind those choices were learned with them.",
        "- It keeps the abilities and biases of its base model, whose licence holds for it too.",
        "- Prompts unlike those of its training pairs were not looked at in training.",
        *([] if evaluated else ["- No measurement of its images is recorded here."]),
    ]
