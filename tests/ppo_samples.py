"""A tiny model whose answers come to an end, settings for PPO on it, and a reward that bytes can earn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from text_samples import language_model, pairs, write_jsonl

from diffdpo.config import PpoConfig, build


def write_inputs(folder: Path) -> Path:
    """`lm`, `prompts.jsonl` and `texts.jsonl`."""
    ending_model(folder / "lm")
    rows = pairs(24)
    write_jsonl(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in rows])
    write_jsonl(folder / "texts.jsonl", [{"text": f"{row['prompt']}{row['chosen']}."} for row in rows])
    return folder


def ending_model(folder: Path, bias: float = 3.0) -> Path:
    """Random weights, but `</s>` is some twenty times as likely as another token, wherever it may come."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(language_model(folder, "gpt2"))
    words = lm.transformer.wte.weight.data
    words[:, 0] = 0.0
    words[2, 0] = 1.0
    lm.transformer.ln_f.bias.data[0] = bias
    lm.save_pretrained(folder)
    return folder


def settings(inputs: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A PPO run's, as a YAML file would have them; keyword arguments are `section__key=value`."""
    made: dict[str, Any] = {
        "method": "ppo",
        "output": str(output),
        "model": {"path": str(inputs / "lm"), "reference": "copy"},
        "reward": {"source": "brief"},
        "data": {"path": str(inputs / "prompts.jsonl"), "held_out_share": 0.3},
        "training": {
            "steps": 8, "batch_size": 4, "learning_rate": 1e-3, "max_grad_norm": 1e9,
            "checkpoint_every": 4, "evaluate_every": 4, "log_every": 1,
        },
        "rollout": {"max_tokens": 16, "minibatches": 2, "epochs": 2, "batch_size": 8},
        "loss": {"kl_coef": 0.05},
    }  # fmt: skip
    for path, value in changes.items():
        section, _, key = path.partition("__")
        made.setdefault(section, {})[key] = value
    return made


def config(inputs: Path, output: Path, **changes: Any) -> PpoConfig:
    return build(PpoConfig, settings(inputs, output, **changes))


def open_reward(source: str, device: Any) -> Any:
    """In the place of `commands.rewards.open_reward`."""
    return {"brief": brief, "nan": nan, "short": lambda prompts, answers: [0.0]}[source]


def brief(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
    """The shorter the better; a little for the letter e."""
    return [answer.count("e") - len(answer) / 8 for answer in answers]


def nan(prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
    return [float("nan")] * len(answers)
