"""Settings of the methods that tune a language model: `modality: text`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from diffdpo.config.ppo import PpoLossConfig, PpoTrainingConfig, PtxConfig, RewardSourceConfig, RolloutConfig
from diffdpo.config.shared import LoraConfig, TrainingConfig
from diffdpo.config.strict import in_range
from diffdpo.errors import UserError

REFERENCE_FREE = ("simpo", "orpo")
"""Kinds of `loss.kind` that never have a reference."""


@dataclass(frozen=True)
class TextModelConfig:
    path: str
    """A transformers folder, a hub name, or a .gguf file."""
    reference: Literal["adapter", "copy", "cached"] | None = None
    """`adapter`: the model with the LoRA switched off. `copy`: a frozen second network (full fine-tuning). `cached`:
    its log-probabilities are computed once before training and kept on disk; while training it takes no memory."""


@dataclass(frozen=True)
class TextDataConfig:
    path: str
    """A .jsonl, .jsonl.gz, .parquet or .arrow file, or a folder of them (as `datasets` or a hub lays them out)."""
    split: str | None = None
    """Of a folder: read the files whose name, or whose folder's name, begins with this. None is `train` where there is
    one, else all."""
    max_length: int | None = None
    """Tokens of prompt and answer together; None is what the model was made for."""
    max_prompt_length: int | None = None
    """Tokens of the prompt; None leaves it what the answer leaves."""
    truncation: Literal["drop", "keep_end", "keep_start"] = "drop"
    """What becomes of longer ones: left out, or the prompt is cut and keeps its end, or its start."""
    end_token: str | None = None
    """The token that ends an answer; None is the tokenizer's own."""
    packing: bool = False
    """Answers to one prompt share its computation, and several prompts a row, instead of being padded: the same
    likelihoods in fewer tokens."""
    held_out_share: float = 0.05
    """Share of the prompts whose examples are kept for the `eval/` figures and never trained on."""
    filter: str | None = None
    """What keeps harmful records out: a .txt of words, or a text classifier of transformers as PATH=LABEL,LABEL. Looked
    at are prompts and the answers to be imitated or preferred."""
    cache: str | None = None
    """Where log-probabilities of a cached reference are kept; None is `cache` beside the data."""

    def __post_init__(self) -> None:
        in_range("data.held_out_share", self.held_out_share, 0, 0.9)
        if self.max_length is not None:
            in_range("data.max_length", self.max_length, 2, float("inf"))
        if self.max_prompt_length is not None:
            in_range("data.max_prompt_length", self.max_prompt_length, 1, float("inf"))
            if self.max_length is not None and self.max_prompt_length >= self.max_length:
                raise UserError(
                    "data.max_prompt_length: must be below data.max_length, or no room is left for an answer"
                )


@dataclass(frozen=True)
class TextDpoLossConfig:
    beta: float
    """Strength of the tie to the reference; the implicit reward is beta times the log-ratio. For `orpo` the weight of
    the preference beside the likelihood (the paper's lambda)."""
    kind: Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo"] = "sigmoid"
    label_smoothing: float = 0.0
    """Assumed share of flipped labels; for `sigmoid` (cDPO) and `robust` only."""
    average: Literal["sum", "mean"] = "sum"
    """The log-ratio of an answer is the sum over its tokens, as in the papers of DPO and IPO, or their mean, as some
    code has it for `ipo`. `simpo` and `orpo` always take means."""
    reference_free: bool = False
    """Take a reference that finds all answers equally likely: the log-ratio is the log-probability itself."""
    gamma: float = 0.0
    """`simpo` only: the target margin, in the unit of the reward."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"loss.beta: must be positive, not {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"loss.label_smoothing: must lie in [0, 0.5), not {self.label_smoothing}")
        if self.label_smoothing and self.kind not in ("sigmoid", "robust"):
            raise UserError(f"loss.label_smoothing: has no meaning for loss.kind {self.kind}; use sigmoid or robust")
        if self.gamma and self.kind != "simpo":
            raise UserError(f"loss.gamma: has no meaning for loss.kind {self.kind}; use simpo")
        in_range("loss.gamma", self.gamma, 0, float("inf"))
        if self.kind in REFERENCE_FREE and self.average != "sum":
            raise UserError(f"loss.average: {self.kind} takes means by itself; leave the key out")

    @property
    def has_reference(self) -> bool:
        return not self.reference_free and self.kind not in REFERENCE_FREE


@dataclass(frozen=True)
class TextKtoLossConfig:
    beta: float
    """Strength of the tie to the reference; the implicit reward is beta times the log-ratio."""
    desirable_weight: float = 1.0
    """Of the desirable answers."""
    undesirable_weight: float = 1.0
    """Of the undesirable ones."""
    has_reference = True

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UserError(f"loss.beta: must be positive, not {self.beta}")
        in_range("loss.desirable_weight", self.desirable_weight, 0, float("inf"))
        in_range("loss.undesirable_weight", self.undesirable_weight, 0, float("inf"))
        if self.desirable_weight == self.undesirable_weight == 0:
            raise UserError("loss.desirable_weight: with both weights 0 there is nothing to learn")


@dataclass(frozen=True)
class TextSftLossConfig:
    dropout: float = 0.0
    """On what every block adds to the residual stream, while training; InstructGPT's is 0.2."""
    has_reference = False

    def __post_init__(self) -> None:
        in_range("loss.dropout", self.dropout, 0, 0.9)


@dataclass(frozen=True)
class ChoiceConfig:
    """Which checkpoint a run leaves: the last, or the one whose answers to held-out prompts a reward likes best."""

    by: str | None = None
    """The reward, as in `reward.source`; None leaves the last checkpoint."""
    no_end: float = -1.0
    """The score of an answer that did not end within `max_tokens`, in place of its own."""
    prompts: int = 64
    """Held-out prompts to answer, at most."""
    max_tokens: int = 128
    """Of an answer, its end token with them."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.no_end):
            raise UserError(f"choose.no_end: a finite number is wanted, not {self.no_end}")
        for name in ("prompts", "max_tokens"):
            in_range(f"choose.{name}", getattr(self, name), 1, float("inf"))

    def check(self, training: TrainingConfig) -> None:
        """Raise UserError unless every checkpoint is evaluated and none goes."""
        if self.by is None:
            return
        if training.checkpoint_every % training.evaluate_every:
            raise UserError(
                "choose.by: every checkpoint must be evaluated; make training.checkpoint_every "
                f"({training.checkpoint_every}) a multiple of training.evaluate_every ({training.evaluate_every})"
            )
        n_checkpoints = math.ceil(training.steps / training.checkpoint_every)
        if training.keep_checkpoints < n_checkpoints:
            raise UserError(
                f"choose.by: chooses among all {n_checkpoints} checkpoints; set training.keep_checkpoints to as many, "
                "or training.checkpoint_every higher"
            )


@dataclass(frozen=True)
class RewardLossConfig:
    centre_on: str | None = None
    """A file or folder of demonstrations whose mean reward is made 0 after training; None is the best answers of the
    training prompts."""
    has_reference = False


@dataclass(frozen=True)
class PpoModelConfig(TextModelConfig):
    value: str | None = None
    """Where the value model starts: a reward model's folder, or a language model, which gets a fresh head. None is the
    reward model of `reward.source`; where that is a program, `path`."""


@dataclass(frozen=True)
class TextConfig:
    """What the methods that tune a language model share."""

    output: str
    """The run's folder."""
    model: TextModelConfig
    data: TextDataConfig
    training: TrainingConfig
    loss: TextDpoLossConfig | TextKtoLossConfig | TextSftLossConfig | RewardLossConfig | PpoLossConfig
    lora: LoraConfig = field(default_factory=LoraConfig)
    modality: Literal["text"] = "text"
    method: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        in_range("seed", self.seed, 0, 2**31)
        self.training.refuse_auto("text")
        if self.training.timestep_power != 1.0:
            raise UserError("training.timestep_power: text has no timesteps; leave it out")
        self._check_reference()

    def _check_reference(self) -> None:
        reference, rank = self.model.reference, self.lora.rank
        if not self.loss.has_reference:
            if reference is not None:
                raise UserError("model.reference: this method or loss has no reference; leave the key out")
        elif reference is None:
            raise UserError("model.reference: this method needs one: adapter (with a LoRA), copy or cached")
        elif rank and reference == "copy":
            raise UserError("model.reference: with a LoRA (lora.rank above 0) it is no copy; say adapter or cached")
        elif not rank and reference == "adapter":
            raise UserError("model.reference: `adapter` needs a LoRA; set lora.rank above 0, or say copy or cached")


@dataclass(frozen=True)
class TextDpoConfig(TextConfig):
    """`method: dpo`: DPO (Rafailov et al. 2023) and the losses that grew from it."""

    loss: TextDpoLossConfig
    method: Literal["dpo"] = "dpo"


@dataclass(frozen=True)
class TextKtoConfig(TextConfig):
    """`method: kto`: KTO (Ethayarajh et al. 2024); every answer is desirable or undesirable by itself."""

    loss: TextKtoLossConfig
    method: Literal["kto"] = "kto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.reference == "cached":
            raise UserError(
                "model.reference: kto also asks the reference about mismatched answers, which no cache holds; say "
                "adapter or copy"
            )


@dataclass(frozen=True)
class TextSftConfig(TextConfig):
    """`method: sft`: the likelihood of demonstrations."""

    loss: TextSftLossConfig = field(default_factory=TextSftLossConfig)
    choose: ChoiceConfig = field(default_factory=ChoiceConfig)
    method: Literal["sft"] = "sft"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose.check(self.training)


@dataclass(frozen=True)
class RewardConfig(TextConfig):
    """`method: reward`: a reward model from rankings (Ouyang et al. 2022)."""

    loss: RewardLossConfig = field(default_factory=RewardLossConfig)
    method: Literal["reward"] = "reward"


@dataclass(frozen=True, kw_only=True)
class PpoConfig(TextConfig):
    """`method: ppo`: PPO on whole answers (Ouyang et al. 2022), with `ptx.path` PPO-ptx. `data` holds prompts."""

    model: PpoModelConfig
    reward: RewardSourceConfig
    training: PpoTrainingConfig
    loss: PpoLossConfig = field(default_factory=PpoLossConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ptx: PtxConfig = field(default_factory=PtxConfig)
    method: Literal["ppo"] = "ppo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.reference == "cached":
            raise UserError(
                "model.reference: ppo draws its answers while it trains, which no cache holds; say adapter or copy"
            )
        if self.data.packing:
            raise UserError("data.packing: ppo has one answer per prompt, so there is nothing to share; leave it out")
        if self.training.checkpoint_every % self.rollout.steps:
            raise UserError(
                f"training.checkpoint_every: must be a multiple of {self.rollout.steps} (rollout.epochs times "
                "rollout.minibatches): a run goes on with a fresh rollout"
            )


TEXT_METHODS: dict[str, type[TextConfig]] = {
    "sft": TextSftConfig,
    "reward": RewardConfig,
    "dpo": TextDpoConfig,
    "kto": TextKtoConfig,
    "ppo": PpoConfig,
}
