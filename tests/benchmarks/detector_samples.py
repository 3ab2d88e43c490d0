"""Small object detectors of random weights in the true layouts of transformers, which are sure to find something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch


def save_yolos(folder: Path, labels: Sequence[str]) -> str:
    """A detector of boxes."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[32, 32],
        num_detection_tokens=20,
        id2label=dict(enumerate(labels)),
    )
    model = YolosForObjectDetection(config)
    model.class_labels_classifier.layers[-1].bias.data[0] = 9  # always the first class, never none
    model.save_pretrained(folder)
    YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 48}).save_pretrained(folder)
    return str(folder)


def save_mask2former(folder: Path, labels: Sequence[str]) -> str:
    """A detector of masks."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=8,
        id2label=dict(enumerate(labels)),
    )
    model = Mask2FormerForUniversalSegmentation(config)
    model.class_predictor.bias.data[0] = 9
    model.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)
