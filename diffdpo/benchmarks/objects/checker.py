"""GenEval's check of an image: a detector, a namer of colours and the rules put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from PIL import Image

from diffdpo.benchmarks.objects.colors import ColorNamer
from diffdpo.benchmarks.objects.detectors import Detector, check_labels
from diffdpo.benchmarks.objects.rules import Found, judge
from diffdpo.benchmarks.registry import Case, Verdict

NameColors = Callable[[Image.Image, Sequence[Found]], Sequence[str]]
"""An image and objects of one class in it -> a colour for each."""


class ObjectCheck:
    """The check of a suite whose cases have GenEval's tasks. The detector is opened with the first image."""

    def __init__(self, open_detector: Callable[[], Detector], colors: NameColors, classes: Sequence[str]) -> None:
        """`classes`: all that the tasks name, which the detector must know."""
        self._open_detector, self._colors, self._classes = open_detector, colors, classes

    def __call__(self, image: Image.Image, case: Case) -> Verdict:
        return judge(case.task, self._detector(image), lambda objects: self._colors(image, objects))

    def prepare(self) -> None:
        """Open the models, so that one that cannot be used stops a run before its images are drawn.

        Raises:
            UserError: the detector cannot be opened or lacks a class.
            ScorerError: the CLIP cannot be opened.
        """
        _ = self._detector
        if isinstance(self._colors, ColorNamer):
            self._colors.open()

    @cached_property
    def _detector(self) -> Detector:
        detector = self._open_detector()
        check_labels(detector, self._classes)
        return detector
