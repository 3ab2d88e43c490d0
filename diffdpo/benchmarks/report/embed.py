"""Images as data URIs, small enough that a page of many stays a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from diffdpo.errors import UserError

_AS_IT_IS = 48 * 1024
"""Files up to so many bytes are embedded unchanged."""
_EDGE = 480
"""Longest edge in pixels of those that are not."""
_SMALL = 128
"""Images up to this size are enlarged in hard pixels: smoothing would hide what the model drew."""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


def data_uri(path: Path) -> str:
    """An image file as a `data:` URI.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            content, kind = path.read_bytes(), _TYPES.get(path.suffix.lower())
            if kind is None or len(content) > _AS_IT_IS:
                content, kind = _reduced(image), "image/webp"
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the image cannot be read ({' '.join(str(error).split())})") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def is_small(path: Path) -> bool:
    """Whether the images of a run are to be shown in hard pixels."""
    with Image.open(path) as image:
        return max(image.size) <= _SMALL


def _reduced(image: Image.Image) -> bytes:
    copy = image.convert("RGB")
    copy.thumbnail((_EDGE, _EDGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    copy.save(buffer, "WEBP", quality=84)
    return buffer.getvalue()
