"""Settings of `method: scorer`: a judge of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffdpo.config.shared import TrainingConfig
from diffdpo.config.strict import in_range
from diffdpo.errors import UserError


@dataclass(frozen=True)
class ScorerModelConfig:
    path: str
    """What `scorers.load(scorer, model=...)` takes; the built-in `shapes-pickscore` and `shapes-hpsv2`; for hpsv2 also
    a name under which open_clip knows weights of the architecture, such as `laion2b_s32b_b79k`."""
    scorer: Literal["pickscore", "hpsv2"]
    """Whose network, preprocessing and scale: the result loads with `scorers.load` under this name."""
    architecture: str | None = None
    """hpsv2 only: an open_clip name or model-config JSON; None is ViT-H-14."""
    processor: str | None = None
    """pickscore only: the folder or hub name of image processor and tokenizer; None as in `scorers.load`."""
    unlocked_image_groups: int | None = None
    """How much of the image tower is trained, counted from the output as open_clip does: the projection, the last
    block with the norm after it, each block before, the embeddings. None is all."""
    unlocked_text_blocks: int | None = None
    """How many of the last text blocks are trained, with the final norm and the projection. None is all, embeddings
    too; 0 is nothing."""

    def __post_init__(self) -> None:
        for name in ("unlocked_image_groups", "unlocked_text_blocks"):
            if getattr(self, name) is not None:
                in_range(f"model.{name}", getattr(self, name), 0, float("inf"))
        if self.architecture is not None and self.scorer != "hpsv2":
            raise UserError("model.architecture: only hpsv2 takes one; a pickscore folder tells its own")
        if self.processor is not None and self.scorer != "pickscore":
            raise UserError("model.processor: only pickscore takes one; hpsv2's is in its architecture")


@dataclass(frozen=True)
class JudgementsConfig:
    path: str
    """A folder of Parquet files (a triplet store, Pick-a-Pic), a folder with `train.json` (HPDv2), or a .json or .jsonl
    file of judgements or rankings."""
    images: str | None = None
    """Where the image paths of a JSON file start; None is the folder of its name beside it, else its own folder."""
    ties: Literal["drop", "half"] = "half"
    """`half`: a tie between two images says that their scores should be equal. `drop` leaves ties out."""
    held_out_share: float = 0.05
    """Share of the prompts whose judgements are kept for `eval/accuracy` and never trained on."""
    workers: int | None = None
    """Threads that decode and prepare images; None is one per CPU, at most 8."""

    def __post_init__(self) -> None:
        in_range("data.held_out_share", self.held_out_share, 0, 0.9)
        if self.workers is not None:
            in_range("data.workers", self.workers, 1, 1024)


@dataclass(frozen=True)
class ScorerLossConfig:
    kind: Literal["pickscore", "hps"]
    """Of two images, in both cases the cross-entropy of their label and the softmax of their scores. `pickscore`
    weighs a judgement by 1 / number of judgements of its prompt, `hps` weighs all alike. Rankings of more than two
    images: Bradley-Terry over their ordered pairs."""


@dataclass(frozen=True)
class ScorerConfig:
    """`method: scorer`: a judge of one's own, in the layout of PickScore (Kirstain et al. 2023) or HPS v2 (Wu et al.
    2023)."""

    output: str
    """The run's folder."""
    model: ScorerModelConfig
    data: JudgementsConfig
    training: TrainingConfig
    loss: ScorerLossConfig
    method: Literal["scorer"] = "scorer"
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31)
        self.training.refuse_auto("a scorer")
        if self.training.timestep_power != 1.0:
            raise UserError("training.timestep_power: a scorer has no timesteps; leave it out")
        if self.model.unlocked_image_groups == 0 and self.model.unlocked_text_blocks == 0:
            raise UserError("model.unlocked_image_groups: with both towers locked there is nothing to train")
