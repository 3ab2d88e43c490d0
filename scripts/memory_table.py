"""Print the tables of docs/memory.md: what tuning SD1.5 and SDXL is estimated to take on a GPU. Needs no GPU.

python scripts/memory_table.py
"""

from __future__ import annotations

import dataclasses
from typing import Any

from diffdpo.models.memory.architectures import published
from diffdpo.models.memory.footprint import Footprint, Tuning, footprint

MODELS = {"SD1.5 at 512 px": "sd15", "SDXL at 1024 px": "sdxl"}
BATCHES = (1, 4)
"""Pairs per micro-step."""
MODES: dict[str, dict[str, Any]] = {
    "LoRA of rank 16, `adapter`, bf16": {"lora_rank": 16},
    "LoRA of rank 16, `adapter`, fp32": {"lora_rank": 16, "precision": "fp32"},
    "full, `copy`, adamw, bf16": {"copy": True},
    "full, `copy`, adamw, bf16, ema": {"copy": True, "ema": True},
    "full, `cached`, adamw, bf16": {},
    "full, `cached`, adamw, fp32": {"precision": "fp32"},
    "full, `cached`, adamw8bit, bf16": {"optimizer": "adamw8bit"},
    "full, `cached`, adafactor, bf16": {"optimizer": "adafactor"},
}


def main() -> None:
    for title, name in MODELS.items():
        architecture = published(name)
        print(f"\n{title}, GB (1e9 bytes)\n")
        head = [f"{pairs} pair{'s' * (pairs > 1)}{way}" for way in ("", ", checkpointed") for pairs in BATCHES]
        print(f"| mode | weights | gradients | optimiser | average, reference | in all: {' | '.join(head)} |")
        print("|---" * (5 + len(head)) + "|")
        for mode, changes in MODES.items():
            plain = dataclasses.replace(Tuning(images=2, precision="bf16"), **changes)
            found = [
                footprint(architecture, dataclasses.replace(plain, images=2 * pairs, checkpointing=on))
                for on in (False, True)
                for pairs in BATCHES
            ]
            print(f"| {mode} | {' | '.join(_columns(found))} |", flush=True)


def _columns(found: list[Footprint]) -> list[str]:
    first = found[0]
    fixed = (
        first.network + first.adapter,
        first.gradients,
        first.optimizer,
        first.average + first.reference,
    )
    return [f"{value / 1e9:.1f}" for value in (*fixed, *(one.total for one in found))]


if __name__ == "__main__":
    main()
