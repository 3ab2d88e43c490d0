"""What a denoiser is asked to predict: noising, targets, and the draws of timestep and noise. Imports torch alone."""

from diffdpo.objectives.draws import Draws, draw, draw_view, spread
from diffdpo.objectives.noising import Diffusion, FlowMatching, Objective

__all__ = ["Diffusion", "Draws", "FlowMatching", "Objective", "draw", "draw_view", "spread"]
