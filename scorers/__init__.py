"""Scorers: models that say how well an image fits a prompt, or how much people would like it.

    import scorers
    scorer = scorers.load("pickscore", device="cuda")
    scores = scorer.score(prompts, images)      # list[str], list[PIL.Image] -> Tensor [N] float32 on the CPU

Importing this package, and `names()`, stay free of torch: the libraries load with the first scorer.
"""

from scorers.errors import ScorerError
from scorers.evaluation import evaluate
from scorers.registry import load, names
from scorers.together import score_many

__all__ = ["ScorerError", "evaluate", "load", "names", "score_many"]
