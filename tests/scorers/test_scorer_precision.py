"""precision.py: a score computes in its own dtype, and what the caller had set comes back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from scorers import ScorerError
from scorers.precision import exact_precision, resolve_device, resolve_dtype

CUDA = torch.device("cuda")
PARTS: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]


@pytest.fixture
def tf32() -> Iterator[None]:
    """TF32 on, as a training run would set it; the former settings come back."""
    before = [part.fp32_precision for part in PARTS]
    for part in PARTS:
        part.fp32_precision = "tf32"
    yield
    for part, value in zip(PARTS, before, strict=True):
        part.fp32_precision = value


def settings() -> list[str]:
    return [part.fp32_precision for part in PARTS]


@pytest.mark.usefixtures("tf32")
def test_float32_on_cuda_is_not_tf32() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast notes that there is no GPU here
        with exact_precision(CUDA, torch.float32):
            assert settings() == ["ieee", "ieee"]


@pytest.mark.usefixtures("tf32")
def test_settings_come_back_after_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError), exact_precision(CUDA, torch.float32):
            raise RuntimeError
    assert settings() == ["tf32", "tf32"]


def test_autocast_is_off_inside() -> None:
    matrix = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16), exact_precision(torch.device("cpu"), torch.float32):
        assert (matrix @ matrix).dtype is torch.float32


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes(given: str | torch.dtype | None, expected: torch.dtype) -> None:
    assert resolve_dtype(given) is expected


@pytest.mark.parametrize("dtype", ["fp8", torch.int64, ""])
def test_other_dtypes_are_refused(dtype: str | torch.dtype) -> None:
    with pytest.raises(ScorerError, match="use fp32, fp16 or bf16"):
        resolve_dtype(dtype)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ScorerError, match="'cuda:99' cannot be used"):
        resolve_device("cuda:99")
