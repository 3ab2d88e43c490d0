"""Draw docs/before_after.png: held-out captions before and after tuning, from two benchmark runs of the micro world.

    python scripts/before_after.py runs/demo/before runs/demo/after docs/before_after.png

The pictures are not picked: they are every 37th caption of the suite.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

EDGE, GAP, EVERY, SHOWN = 128, 16, 37, 8
RIGHT, WRONG = (34, 139, 84), (196, 62, 48)


def main(before: str, after: str, out: str) -> None:
    from diffdpo.benchmarks.results import read_run

    runs = [read_run(before), read_run(after)]
    columns = [index * EVERY for index in range(SHOWN)]
    left, top, caption = 64, 8, 68
    size = (left + len(columns) * (EDGE + GAP), top + 2 * (EDGE + GAP) + caption)
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for row, (label, run) in enumerate(zip(("before", "after"), runs, strict=True)):
        y = top + row * (EDGE + GAP)
        draw.text((8, y + EDGE / 2 - 8), label, fill="black", font=font)
        for column, index in enumerate(columns):
            x = left + column * (EDGE + GAP)
            right = (run.rows[index].parts or {}).get("exact", False)
            draw.rectangle((x - 3, y - 3, x + EDGE + 2, y + EDGE + 2), fill=RIGHT if right else WRONG)
            with Image.open(run.image(index)) as image:
                canvas.paste(image.convert("RGB").resize((EDGE, EDGE), Image.Resampling.NEAREST), (x, y))
    for column, index in enumerate(columns):
        x, y = left + column * (EDGE + GAP), top + 2 * (EDGE + GAP) - 8
        for line, text in enumerate(_lines(runs[0].rows[index].prompt)):
            draw.text((x, y + 15 * line), text, fill="black", font=font)
    canvas.save(out, optimize=True)


def _lines(caption: str) -> list[str]:
    """A caption in lines of about a picture's width."""
    lines: list[str] = [""]
    for word in caption.split():
        if len(lines[-1]) + len(word) > 18:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    if not Path(sys.argv[1]).is_dir():
        sys.exit(f"{sys.argv[1]}: no such folder")
    main(*sys.argv[1:])
