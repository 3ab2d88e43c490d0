"""Object detectors of transformers: any checkpoint for object detection, or for instance segmentation, whose masks
colours are read in. GenEval used Mask2Former (Swin-S, COCO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from diffdpo.benchmarks.objects.rules import CONFIDENCE, Found
from diffdpo.errors import UserError

DETECTOR = "facebook/mask2former-swin-small-coco-instance"

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "airplane": ("aeroplane",),
    "computer keyboard": ("keyboard",),
    "computer mouse": ("mouse",),
    "couch": ("sofa",),
    "dining table": ("diningtable",),
    "motorcycle": ("motorbike",),
    "potted plant": ("pottedplant",),
    "tv": ("tvmonitor",),
    "tv remote": ("remote",),
}
"""GenEval's name of a class -> what detectors call it: COCO's names, and the older ones of Pascal VOC."""


class Detector(Protocol):
    """What finds objects in an image."""

    labels: frozenset[str]
    """The classes it knows, by GenEval's names."""

    def __call__(self, image: Image.Image) -> list[Found]:
        """Objects of an RGB image with a score above `CONFIDENCE`, in any order."""
        ...


class TransformersDetector:
    """A checkpoint of transformers, from a hub name or a folder."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        """Raises UserError if it cannot be opened or is of no kind that finds objects."""
        from transformers import AutoConfig, AutoImageProcessor

        from scorers.shared import quiet

        try:
            with quiet():
                config = AutoConfig.from_pretrained(name)
                self._segments = _segments(name, config)
                self.processor = AutoImageProcessor.from_pretrained(name)
                self.model: Any = _model_class(self._segments).from_pretrained(name, dtype=torch.float32)
        except UserError:
            raise
        except Exception as error:  # transformers, safetensors and the hub client each raise their own kinds
            raise UserError(f"detector {name!r}: cannot be opened ({' '.join(str(error).split())[:200]})") from None
        self.device = torch.device(device)
        self.model.to(self.device).eval()
        ours = {other: name for name, others in OTHER_NAMES.items() for other in others}
        self._names = {int(number): ours.get(label, label) for number, label in config.id2label.items()}
        self.labels = frozenset(self._names.values())

    def __call__(self, image: Image.Image) -> list[Found]:
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        size = [(image.height, image.width)]
        if not self._segments:
            after = self.processor.post_process_object_detection
            return self._boxed(after(outputs, threshold=CONFIDENCE, target_sizes=size)[0])
        after = self.processor.post_process_instance_segmentation
        return self._masked(after(outputs, threshold=CONFIDENCE, target_sizes=size, return_binary_maps=True)[0])

    def _boxed(self, result: Mapping[str, Any]) -> list[Found]:
        rows = zip(result["labels"].tolist(), result["scores"].tolist(), result["boxes"].tolist(), strict=True)
        return [Found(self._names[label], score, tuple(box)) for label, score, box in rows]

    def _masked(self, result: Mapping[str, Any]) -> list[Found]:
        found = []
        for segment, mask in zip(result["segments_info"], _masks(result), strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            found.append(Found(self._names[segment["label_id"]], float(segment["score"]), box, mask))
        return found


def check_labels(detector: Detector, classes: Sequence[str]) -> None:
    """Raises UserError, naming them, if there are classes that a detector does not know."""
    lacking = sorted(set(classes) - detector.labels)
    if lacking:
        raise UserError(f"the detector knows no {', '.join(lacking)}; take one that was trained on COCO")


def detector_name(name: str) -> str:
    """How a run records a detector, or another model: a hub name, or a folder's name with its content."""
    from diffdpo.runs import content_hash

    return f"{Path(name).name} {content_hash(name)}" if Path(name).exists() else name


def _masks(result: Mapping[str, Any]) -> list[Any]:
    if not result["segments_info"]:
        return []
    return [mask.cpu().numpy().astype(bool) for mask in result["segmentation"]]


def _segments(name: str, config: Any) -> bool:
    """Whether a checkpoint gives masks, else boxes."""
    kinds = config.architectures or []
    if any(kind.endswith("ForObjectDetection") for kind in kinds):
        return False
    if any(kind.endswith(("ForUniversalSegmentation", "ForInstanceSegmentation")) for kind in kinds):
        return True
    raise UserError(f"detector {name!r}: is {', '.join(kinds) or 'of no kind'}, neither object detection nor segments")


def _model_class(segments: bool) -> Any:
    from transformers import AutoModelForObjectDetection, AutoModelForUniversalSegmentation

    return AutoModelForUniversalSegmentation if segments else AutoModelForObjectDetection
