"""A text classifier of transformers that flags what is harmful."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.models.text.loading import context_length, load_network, load_tokenizer

THRESHOLD = 0.5
"""Probability of what is harmful from which a text is flagged."""


class TextClassifier:
    """Flags by the labels that are said to be harmful: by the sum of their probabilities where labels exclude each
    other (softmax), by the likeliest of them where each stands for itself (sigmoid: `problem_type`
    multi_label_classification in the config)."""

    def __init__(
        self, path: str, labels: Sequence[str] = (), *, device: str | torch.device = "cpu", batch_size: int = 32
    ) -> None:
        """Open a folder or hub name with a sequence classifier and its tokenizer.

        Args:
            labels: the harmful ones; of a multi-label classifier none means all.

        Raises:
            UserError: no classifier is there, it has no such label, or it needs labels and there are none.
        """
        from transformers import AutoModelForSequenceClassification

        self.network = load_network(AutoModelForSequenceClassification, path).to(device)
        self.tokenizer = load_tokenizer(path)
        config = self.network.config
        self.multi_label = config.problem_type == "multi_label_classification"
        names = [str(config.id2label[place]) for place in range(config.num_labels)]
        self.harmful = _places(path, names, labels, needed=not self.multi_label)
        self.batch_size = batch_size

    def flagged(self, texts: Sequence[str]) -> list[bool]:
        """A text longer than the classifier takes is judged by its beginning."""
        found: list[bool] = []
        for start in range(0, len(texts), self.batch_size):
            found += (self.harm(texts[start : start + self.batch_size]) >= THRESHOLD).tolist()
        return found

    @torch.no_grad()
    def harm(self, texts: Sequence[str]) -> Tensor:
        """How probably each text is harmful, [N] float32 in 0..1."""
        longest = context_length(self.network.config) or self.tokenizer.model_max_length
        inputs = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt").to(
            self.network.device
        )
        logits = self.network(**inputs).logits.float()
        if self.multi_label:
            return torch.sigmoid(logits)[:, self.harmful].amax(1)
        return torch.softmax(logits, dim=1)[:, self.harmful].sum(1)


def _places(path: str, names: Sequence[str], labels: Sequence[str], *, needed: bool) -> list[int]:
    unknown = sorted(set(labels) - set(names))
    if unknown or (needed and not labels):
        wrong = f"no label {unknown[0]!r}" if unknown else "which of its labels are harmful is not said"
        raise UserError(f"filter {path}: {wrong}; write {path}=LABEL or =LABEL,LABEL with some of {', '.join(names)}")
    return [place for place, name in enumerate(names) if name in labels or not labels]
