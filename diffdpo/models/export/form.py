"""The forms that a trained model leaves in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffdpo.errors import UserError

KINDS = ("diffusers", "kohya", "single-file")
DTYPES = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Form:
    """What is to be written.

    Args:
        kind: `diffusers` is a folder for `from_pretrained`, or of a LoRA one for `load_lora_weights`; `kohya` a LoRA
            in one file; `single-file` a whole model in one.
        merge: the LoRA goes into its base, and a whole model is written.
        dtype: what floating-point weights are stored in; None keeps the precision they were trained in, float32.
        name: of the file, without its ending.
    """

    kind: Literal["diffusers", "kohya", "single-file"] = "diffusers"
    merge: bool = False
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    name: str = "model"

    @property
    def file(self) -> str:
        return f"{self.name}.safetensors"

    def check(self, lora: bool) -> None:
        """Raise UserError unless a run with a LoRA, or one without, can leave in this form."""
        if self.merge and not lora:
            raise UserError("--merge: this run tuned the whole model and has no LoRA to merge; leave --merge out")
        if self.kind == "kohya" and not lora:
            raise UserError(
                "--format kohya: this run tuned the whole model, and that form is for a LoRA; say --format single-file"
            )
        if self.kind == "kohya" and self.merge:
            raise UserError("--format kohya: a merged LoRA is a whole model; say --format single-file, or no --merge")
        if self.kind == "single-file" and lora and not self.merge:
            raise UserError(
                "--format single-file: this run trained a LoRA; say --format kohya for the LoRA in one file, or add"
                " --merge for the whole model"
            )


AS_TRAINED = Form()
