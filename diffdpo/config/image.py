"""Settings of the methods that tune an image model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffdpo.config.shared import LoraConfig, TrainingConfig
from diffdpo.config.strict import in_range
from diffdpo.errors import UserError


@dataclass(frozen=True)
class CheckpointConfig:
    """What every method says of the model it tunes."""

    path: str
    """A diffusers folder, a hub name, or `shapes` for the built-in model."""
    guidance: float | None = None
    """The guidance that a distilled network (Flux.1-dev) is told while it is trained; None is 1. Other networks take
    none."""
    max_sequence_length: int | None = None
    """Tokens of a prompt that T5 reads; None is what the diffusers pipeline draws with: 256 for SD3, 512 for Flux."""

    def __post_init__(self) -> None:
        if self.guidance is not None:
            in_range("model.guidance", self.guidance, 0, 100)
        if self.max_sequence_length is not None:
            in_range("model.max_sequence_length", self.max_sequence_length, 1, 512)


@dataclass(frozen=True)
class ModelConfig(CheckpointConfig):
    reference: Literal["adapter", "copy", "cached"] = "adapter"
    """`adapter`: the model with the LoRA switched off. `copy`: a frozen second network (full fine-tuning). `cached`:
    its errors are computed once before training and kept beside the latents; while training it takes no memory."""


@dataclass(frozen=True)
class FreeModelConfig(CheckpointConfig):
    """For methods without a reference."""

    reference: str | None = None
    """Nothing: there is no reference to hold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is not None:
            raise UserError("model.reference: this method has no reference; leave the key out")


@dataclass(frozen=True)
class DataConfig:
    path: str
    """The triplet store: a folder of part-*.parquet, or the Parquet files of one split of Pick-a-Pic."""
    ties: Literal["drop", "half"] = "drop"
    """`drop` leaves ties out; `half` trains on both orders with half the weight."""
    min_margin: float | None = None
    """Trains only on pairs whose scores are at least this far apart, in the labeler's unit; None takes all. Ties
    are left to `ties`."""
    margin_weight: Literal["none", "linear"] = "none"
    """`linear`: a pair's loss is weighed by how far apart its scores are, the mean weight being 1; see
    `losses.margin_weights`. `none`: all pairs count alike."""
    held_out_share: float = 0.05
    """Share of the prompts whose pairs are kept for `eval/accuracy` and never trained on."""
    held_out_pairs: int = 500
    """Of those at most so many are looked at, each with 8 draws: an accuracy of 500 pairs is known to 2 points, and all
    that a share of a large store holds would take longer to look at than to train on."""
    caption_dropout: float = 0.0
    """Share of draws in which a pair is seen without its caption, to keep classifier-free guidance alive."""
    cache: str | None = None
    """Where encoded latents are kept; None is `cache` inside the data folder."""
    cache_precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What they and the encoded captions are kept in: `bf16` and `fp16` take half of the disk and round them once,
    alike for policy and reference."""
    size: int | None = None
    """Pixels; images are resized (shortest edge) and cropped to its square. None keeps them as they are."""
    buckets: bool = False
    """Keeps the shape of images that are not square: every pair goes to the nearest of about thirty shapes, each with
    no more pixels than the square of `size`, and only what does not fit that shape is cut off."""
    crop: Literal["center", "random"] = "center"
    """Where what is too much is cut off; `random` draws anew in every epoch, from `crops` places. One for both images
    of a pair."""
    crops: int = 4
    """Of `crop: random`: how many crops of every pair are encoded and kept. Not used with `center`."""
    flip: bool = False
    """Mirrors a pair, both images or neither, in half of the epochs at random. Twice as much is encoded and kept."""

    def __post_init__(self) -> None:
        in_range("data.held_out_share", self.held_out_share, 0, 0.9)
        in_range("data.held_out_pairs", self.held_out_pairs, 1, float("inf"))
        in_range("data.caption_dropout", self.caption_dropout, 0, 1)
        if self.min_margin is not None:
            in_range("data.min_margin", self.min_margin, 0, float("inf"))
        if self.size is not None:
            in_range("data.size", self.size, 8, 1 << 16)
        in_range("data.crops", self.crops, 1, 64)
        if self.size is None and (self.buckets or self.crop == "random"):
            key, what = ("buckets", "whose area is kept") if self.buckets else ("crop", "that is cut out")
            raise UserError(f"data.{key}: needs data.size, the side in pixels of the square {what}")


@dataclass(frozen=True)
class ImageTrainingConfig(TrainingConfig):
    pairs_per_step: int | None = None
    """Pairs per optimiser step, over all processes; `accumulation` follows from it. None: it follows from those two."""
    timesteps: Literal["uniform", "stratified"] = "uniform"
    """`uniform` draws every timestep for itself. `stratified` spreads them evenly over the pairs of a step, and over
    those of any steps that follow each other; what `timestep_power` says of their density still holds."""
    noise: Literal["independent", "antithetic"] = "independent"
    """`antithetic`: in every second epoch a pair is seen with the noise of the epoch before, with the other sign."""
    prefetch: int = 0
    """Micro-batches that a thread prepares ahead, in pinned memory for a GPU; 0 prepares each when it is needed."""
    compile: bool = False
    """Lets torch compile the network's blocks, which takes minutes at the start; meant for a GPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("training.prefetch", self.prefetch, 0, 64)
        if self.pairs_per_step is not None:
            in_range("training.pairs_per_step", self.pairs_per_step, 1, float("inf"))
            if self.accumulation != 1:
                raise UserError("training.accumulation: follows from training.pairs_per_step; leave one of them out")
        elif self.batch_size == "auto":
            raise UserError("training.batch_size: auto needs training.pairs_per_step, the pairs of a whole step")


@dataclass(frozen=True)
class LossConfig:
    beta: float
    """Strength of the tie to the reference, in the official convention: the logit is beta/2 times the margin of mean
    squared errors. The paper's 5000 is 2500 in code without the half, and beta / (C*H*W) where errors are summed."""
    kind: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    label_smoothing: float = 0.0
    """Assumed share of flipped labels; for `sigmoid` (cDPO) and `robust` only."""
    winner_safeguard: float | None = None
    """mu of SDPO: scales the loser's gradient so that a step cannot raise the winner's error; None switches it off."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"loss.beta: must be positive, not {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"loss.label_smoothing: must lie in [0, 0.5), not {self.label_smoothing}")
        if self.label_smoothing and self.kind not in ("sigmoid", "robust"):
            raise UserError(f"loss.label_smoothing: has no meaning for loss.kind {self.kind}; use sigmoid or robust")
        if self.winner_safeguard is not None:
            in_range("loss.winner_safeguard", self.winner_safeguard, 0, 1)


@dataclass(frozen=True)
class KtoLossConfig:
    beta: float
    """Strength of the tie to the reference, as in `method: dpo`: the reward is beta/2 times the fall of the mean
    squared error. The code of Diffusion-KTO is without the half: the 1000 of its example is 2000 here."""
    kind: Literal["sigmoid", "loss_averse", "risk_seeking"] = "sigmoid"
    """The utility; see `losses.kto_loss`."""
    desirable_weight: float = 1.0
    """Of the chosen images."""
    undesirable_weight: float = 1.0
    """Of the rejected ones."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"loss.beta: must be positive, not {self.beta}")
        in_range("loss.desirable_weight", self.desirable_weight, 0, float("inf"))
        in_range("loss.undesirable_weight", self.undesirable_weight, 0, float("inf"))
        if self.desirable_weight == self.undesirable_weight == 0:
            raise UserError("loss.desirable_weight: with both weights 0 there is nothing to learn")


@dataclass(frozen=True)
class MapoLossConfig:
    beta: float = 0.1
    """Weight of the margin beside the winner's denoising loss."""
    snr: float = 0.5
    """Scale of the errors in the score; see `losses.mapo_loss`."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"loss.beta: must be positive, not {self.beta}")
        if not self.snr > 0:
            raise UserError(f"loss.snr: must be positive, not {self.snr}")


@dataclass(frozen=True)
class SftLossConfig:
    """The denoising loss has nothing to set."""


@dataclass(frozen=True)
class SamplesConfig:
    """Grids of images drawn while training, always of the same prompts and seeds. They move no weight, so that all of
    this may be other when a run goes on."""

    every: int | None = None
    """Steps between two grids; None draws none."""
    prompts: str | None = None
    """A file of prompts, of which the first ones are taken; None takes captions of the held-out pairs."""
    count: int = 16
    """Images in a grid, one for each prompt; fewer where there are fewer prompts."""
    steps: int = 30
    """Denoising steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale."""
    seed: int = 0
    """Of the first image; the second has the next one, and so on."""
    batch_size: int = 4
    """Images drawn at a time."""
    scorers: tuple[str, ...] = ()
    """Judges that look at every grid, `name` or `name=path`; they stay in memory beside the training."""

    def __post_init__(self) -> None:
        if self.every is not None:
            in_range("samples.every", self.every, 1, float("inf"))
        for name in ("count", "steps", "batch_size"):
            in_range(f"samples.{name}", getattr(self, name), 1, float("inf"))
        in_range("samples.seed", self.seed, 0, 2**31)


@dataclass(frozen=True)
class ImageConfig:
    """What the methods that tune an image model share."""

    output: str
    """The run's folder."""
    model: ModelConfig | FreeModelConfig
    data: DataConfig
    training: ImageTrainingConfig
    loss: LossConfig | KtoLossConfig | MapoLossConfig | SftLossConfig
    lora: LoraConfig = field(default_factory=LoraConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    method: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31)
        if self.training.batch_size == "auto" and (self.data.buckets or self.method == "kto"):
            why = "data.buckets, whose order" if self.data.buckets else "method kto, whose reference point"
            raise UserError(f"training.batch_size: auto cannot be had with {why} depends on it; say a number")
        if self.lora.rank and self.model.reference == "copy":
            raise UserError(
                "model.reference: with a LoRA (lora.rank above 0) it is no copy; say model.reference=adapter"
            )
        if self.lora.rank == 0 and self.model.reference == "adapter":
            raise UserError(
                "model.reference: `adapter` needs a LoRA; set lora.rank above 0, or model.reference to copy or cached"
            )


@dataclass(frozen=True)
class DpoConfig(ImageConfig):
    """`method: dpo` on images: Diffusion-DPO (Wallace et al. 2023)."""

    model: ModelConfig
    loss: LossConfig
    method: Literal["dpo"] = "dpo"


@dataclass(frozen=True)
class KtoConfig(ImageConfig):
    """`method: kto`: Diffusion-KTO (Li et al. 2024); every image is desirable or undesirable by itself."""

    model: ModelConfig
    loss: KtoLossConfig
    method: Literal["kto"] = "kto"


@dataclass(frozen=True)
class MapoConfig(ImageConfig):
    """`method: mapo`: MaPO (Hong et al. 2024), without a reference."""

    model: FreeModelConfig
    loss: MapoLossConfig = field(default_factory=MapoLossConfig)
    method: Literal["mapo"] = "mapo"


@dataclass(frozen=True)
class SftConfig(ImageConfig):
    """`method: sft`: the denoising loss on the winners alone."""

    model: FreeModelConfig
    loss: SftLossConfig = field(default_factory=SftLossConfig)
    method: Literal["sft"] = "sft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.ties == "half":
            raise UserError("data.ties: a tie has no winner for `method: sft` to learn from; use drop")


IMAGE_METHODS: dict[str, type[ImageConfig]] = {"dpo": DpoConfig, "kto": KtoConfig, "mapo": MapoConfig, "sft": SftConfig}
