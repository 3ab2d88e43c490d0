"""`method: kto`: Diffusion-KTO (Li et al. 2024, arXiv 2404.04465) over cached latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from diffdpo.config import KtoLossConfig
from diffdpo.losses import PreferenceOutput, kto_loss, kto_reference_point, log_ratio_from_errors
from diffdpo.training.image.referenced import ReferencedRecipe


class DiffusionKto(ReferencedRecipe):
    """A pair is two images here: a desirable one and an undesirable one, noised alike.

    The reference point is the mean over the images of a micro-batch in all processes, as in the code of Diffusion-KTO;
    it alone ties them together. A tie makes each of its images half desirable and half undesirable: with `sigmoid` and
    equal weights that is a constant, so ties count for the reference point and pull nowhere.
    """

    def __init__(self, *args: Any, loss: KtoLossConfig, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.loss_config = loss

    def judge(self, *errors: Tensor) -> PreferenceOutput:
        error_w, error_l, ref_w, ref_l = errors
        config = self.loss_config
        beta = config.beta / 2  # the official convention of Diffusion-DPO, see `diffusion_dpo_loss`
        ratio_w, ratio_l = log_ratio_from_errors(error_w, ref_w), log_ratio_from_errors(error_l, ref_l)
        ratios = torch.cat([ratio_w, ratio_l])
        desirable = torch.arange(len(ratios), device=ratios.device) < len(ratio_w)
        losses = kto_loss(
            ratios,
            desirable,
            kto_reference_point(_of_all_processes(ratios), beta),
            beta=beta,
            kind=config.kind,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        loss_w, loss_l = losses.chunk(2)
        return PreferenceOutput(0.5 * (loss_w + loss_l), (beta * ratio_w).detach(), (beta * ratio_l).detach())


def _of_all_processes(ratios: Tensor) -> Tensor:
    """Those of every process, without gradient; each gives as many. [N] -> [processes * N]."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ratios
    parts = [torch.empty_like(ratios) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, ratios.detach().contiguous())
    return torch.cat(parts)
