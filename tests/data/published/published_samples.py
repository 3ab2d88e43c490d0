"""Small published data sets in their true layouts: real Parquet files, real JPEG and PNG bytes."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)
"""The published columns, in their order."""


def picture(number: int, kind: str = "JPEG", size: int = 16) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def pickapic_row(number: int, **changes: Any) -> dict[str, Any]:
    first_wins = number % 2 == 0
    row = {
        "are_different": True,
        "best_image_uid": f"uid-{number}-{0 if first_wins else 1}",
        "caption": f"a {('red', 'blue', 'green')[number % 3]} thing",
        "created_at": datetime.datetime(2023, 1, 1),
        "has_label": True,
        "image_0_uid": f"uid-{number}-0",
        "image_0_url": "",
        "image_1_uid": f"uid-{number}-1",
        "image_1_url": "",
        "jpg_0": picture(2 * number),
        "jpg_1": picture(2 * number + 1, "PNG"),
        "label_0": float(first_wins),
        "label_1": float(not first_wins),
        "model_0": "sd",
        "model_1": "sdxl",
        "ranking_id": 1000 + number,
        "user_id": 7,
        "num_example_per_prompt": 1,
        "__index_level_0__": number,
    }
    return row | changes


def write_pickapic(path: Path, rows: list[dict[str, Any]], rows_per_group: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([field for field in PICKAPIC if field.name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=rows_per_group)
    return path
