"""What is asked of a vision-language model about images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from scorers.chat.answers import read_number
from scorers.chat.questions import CHOOSE, Choice, Question, filled

RATE = """This image was made for the following description.

{prompt}

How good is the image? It should show all that the description says, and be well made."""

COMPARE = """Both images were made for the following description.

{prompt}

Which image is better? It should show all that the description says, and be well made."""


@dataclass(frozen=True)
class Rating(Question):
    """One image, a number from `low` to `high`."""

    low: int
    high: int

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(str(number) for number in range(self.low, self.high + 1))

    def read(self, text: str) -> float | None:
        return read_number(text, self.low, self.high)

    def decide(self, probabilities: Mapping[str, float]) -> float:
        """The expected number: finer than the most probable one, so that close images seldom tie."""
        return sum(int(word) * probability for word, probability in probabilities.items())


def rating(template: str, prompt: str, image: Image.Image, low: int, high: int) -> Rating:
    """Ask how good an image is. `template` holds `{prompt}`."""
    instruction = f"Answer with one number from {low} (worst) to {high} (best) and nothing else."
    return Rating((image, filled(template, prompt, instruction)), instruction, low, high)


def choice(template: str, prompt: str, a: Image.Image, b: Image.Image) -> Choice:
    """Ask which of two images is better, in this order. `template` holds `{prompt}`."""
    return Choice(("Image A:", a, "Image B:", b, filled(template, prompt, CHOOSE)), CHOOSE)
