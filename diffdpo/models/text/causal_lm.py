"""Any causal language model of transformers: how likely an answer is. The text half's likelihood."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.models.lora import adapter_off, add_lora, save_text_lora
from diffdpo.models.protocol import weights_of
from diffdpo.models.text.dropout import add_residual_dropout
from diffdpo.models.text.loading import (
    checkpoint_activations,
    context_length,
    hidden_states,
    load_network,
    load_tokenizer,
    quiet,
    refuse_unpackable,
)
from diffdpo.models.text.output_head import Scale, chunked_logps

TokenLogps = Callable[..., Tensor]
"""What `LogProbs.forward` is: such a network, a wrapped one or a reference."""

Placed = tuple[Tensor, Tensor, Tensor]
"""`positions`, `source` and `targets` of a `data.text.packing.PackedBatch`."""


class CompletionLogps(NamedTuple):
    """log pi(y|x) of B answers, float32."""

    sums: Tensor
    """[B], over the answer's tokens, its end token with them."""
    counts: Tensor
    """[B], how many those are."""

    @property
    def means(self) -> Tensor:
        """[B], of the answer's tokens."""
        return self.sums / self.counts


class LogProbs(nn.Module):
    """A language model that is asked for the log-probabilities of given tokens only: what the loop trains and wraps."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        completion: Tensor | None = None,
        *,
        temperature: float = 1.0,
        placed: Placed | None = None,
    ) -> Tensor:
        """log p(token | all before it) where `completion` is True and 0 elsewhere, [B, L] float32.

        The output head runs over those places alone.

        Args:
            ids: [B, L] int64. mask, completion: [B, L] bool, see `data.text.batch.TextBatch`.
            temperature: divides the logits.
            placed: of a packed batch, whose mask is [R, L, L], in place of `completion`; the result is then [T].
        """
        if placed is not None:
            positions, source, targets = placed
            states = hidden_states(self.lm.base_model, ids, mask, positions)
            return self._logps(states.flatten(0, 1)[source], targets, temperature)
        assert completion is not None, "without places the answers must be marked"
        # The state before a token tells it; the first token has none, and is never part of an answer.
        learnt = completion[:, 1:]
        states = hidden_states(self.lm.base_model, ids, mask)
        logps = self._logps(states[:, :-1][learnt], ids[:, 1:][learnt], temperature)
        places = torch.zeros_like(completion)
        places[:, 1:] = learnt
        return logps.new_zeros(ids.shape).masked_scatter(places, logps)

    def _logps(self, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
        head = self.lm.get_output_embeddings()
        if torch.is_autocast_enabled(states.device.type):
            states = states.to(torch.get_autocast_dtype(states.device.type))
        return chunked_logps(states, head.weight, head.bias, targets, logit_scale(self.lm.config, temperature))


def completion_logps(network: TokenLogps, batch: tuple[Tensor, ...]) -> CompletionLogps:
    """The log-probability of every answer of a `TextBatch` or a `PackedBatch`, which no padding and no other sequence
    moves."""
    if len(batch) == 3:
        ids, mask, completion = batch
        tokens = network(ids, mask, completion)
        return CompletionLogps(tokens.sum(1), completion[:, 1:].sum(1))
    ids, mask, *placed, owner, last = batch
    tokens = network(ids, mask, placed=placed)
    counts = torch.bincount(owner, minlength=len(last))
    # Not index_add: one by one in float32 it rounds more, and on a GPU in any order.
    sums = torch.stack([part.sum() for part in torch.split(tokens, counts.tolist())])
    return CompletionLogps(sums, counts)


class CausalLM:
    """A language model with its tokenizer, and with a LoRA if it is given a rank."""

    def __init__(
        self,
        path: str,
        *,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
        device: str | torch.device = "cpu",
        frozen_dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Open a local folder, a hub name or a GGUF file.

        Args:
            frozen_dtype: of the weights that a LoRA leaves as they are; trained weights are float32.
            dropout: on the residual stream; works in training mode only.
            seed: of the LoRA.

        Raises:
            UserError: no causal language model is there, or one whose logits are not understood.
        """
        from transformers import AutoModelForCausalLM

        lm = load_network(AutoModelForCausalLM, path, frozen_dtype if lora_rank else torch.float32)
        _check_head(path, lm)
        self.path, self.lora_rank = path, lora_rank
        self.tokenizer = load_tokenizer(path)
        if lora_rank:
            torch.manual_seed(seed)
            add_lora(lm, lora_rank, lora_alpha or lora_rank, "all-linear", task_type="CAUSAL_LM")
        if dropout:
            add_residual_dropout(lm, dropout)
        self.network = LogProbs(lm.to(device))

    @property
    def lm(self) -> Any:
        """The model of transformers, to generate with."""
        return self.network.lm

    @property
    def context(self) -> int | None:
        """How many tokens it was made for, where it says."""
        return context_length(self.lm.config)

    def enable_gradient_checkpointing(self) -> None:
        checkpoint_activations(self.lm)
        self.network.train()  # transformers checkpoints in training mode alone, and there is no dropout unless asked

    def refuse_unpackable(self) -> None:
        """Raise UserError if the network cannot take a `PackedBatch`."""
        refuse_unpackable(self.path, self.lm.base_model)

    def reference(self) -> TokenLogps:
        """The model as it was before training: the LoRA switched off, or a frozen copy. Call it before training."""
        if self.lora_rank:
            return self._with_adapter_off
        return copy.deepcopy(self.network).requires_grad_(False).eval()

    def export(self, folder: Path, weights: Sequence[Tensor] | None = None) -> Path:
        """A folder for `AutoModelForCausalLM.from_pretrained`, or with a LoRA one for `PeftModel.from_pretrained`.

        Args:
            weights: in place of the trained ones.
        """
        with weights_of(self.network, weights), quiet():
            if self.lora_rank:
                save_text_lora(self.lm, folder, self.path)
            else:
                self.lm.config.use_cache = True  # for those who generate with it
                _end_with(self.lm, self.tokenizer.eos_token_id)
                self.lm.save_pretrained(folder)
                self.lm.config.use_cache = False
        self.tokenizer.save_pretrained(folder)
        return folder

    @torch.no_grad()
    def _with_adapter_off(self, *inputs: Tensor, **options: Any) -> Tensor:
        with adapter_off(self.lm):
            logps: Tensor = self.network(*inputs, **options)
        return logps


def _end_with(lm: Any, end: int | None) -> None:
    """Let plain `generate` stop at the token that training ended answers with, among those that it stops at."""
    known = lm.generation_config.eos_token_id if lm.can_generate() else None
    if end is not None and end not in (known if isinstance(known, list) else [known]):
        lm.config.eos_token_id = lm.generation_config.eos_token_id = end


def logit_scale(config: Any, temperature: float = 1.0) -> Scale:
    """What a family does to the product of states and output embeddings, and the temperature after it."""
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def scale(logits: Tensor) -> Tensor:
        logits = logits if factor == 1.0 else logits * factor
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return logits if temperature == 1.0 else logits / temperature

    return scale


@torch.no_grad()
def _check_head(path: str, lm: Any) -> None:
    """Raise UserError where the logits are made in a way unknown here: the likelihoods would silently be others."""
    ids = torch.arange(4, device=lm.device)[None] % lm.config.get_text_config().vocab_size
    head = lm.get_output_embeddings()
    if head is None:
        raise UserError(f"model.path: {path}: a {type(lm).__name__} has no output head over words")
    states = hidden_states(lm.base_model, ids, torch.ones_like(ids, dtype=torch.bool))
    own = logit_scale(lm.config)(head(states).float())
    theirs = lm(input_ids=ids).logits.float()
    if not torch.allclose(own, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
        raise UserError(f"model.path: {path}: a {type(lm).__name__} makes its logits in a way that is not known here")
