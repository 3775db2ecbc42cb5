"""Draws docs/images/demo.png: the demo's photographs with the classes that the pipeline names.

python scripts/demo_picture.py        # after `make demo`
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import deepseek

ROOT = Path(__file__).parents[1]
#: Those of the demo's photographs that are in the public domain.
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg")
SIDE, BAR = 300, 24
INK, FILL = (32, 34, 40), (66, 133, 244)


def main() -> None:
    """One column per photograph, one bar per class."""
    sheet = Image.new("RGB", (len(PHOTOS) * (SIDE + 20) - 20, SIDE + 3 * BAR + 12), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    with deepseek.build(ROOT / "examples/classify.yaml") as pipeline:
        for column, name in enumerate(PHOTOS):
            path, left = ROOT / "examples/models/photos" / name, column * (SIDE + 20)
            sheet.paste(square(Image.open(path)), (left, 0))
            for row, answer in enumerate(pipeline.predict(path)[0]["logits"]):
                top = SIDE + 8 + row * BAR
                draw.rectangle((left, top + 2, left + max(2, answer["score"] * SIDE), top + BAR - 3), FILL)
                text = f"{answer['label'].partition(',')[0]}  {answer['score']:.2f}"
                inside = answer["score"] > 0.6
                start = left + (8 if inside else max(2, answer["score"] * SIDE) + 6)
                draw.text((start, top + 2), text, "white" if inside else INK, font)
    sheet.quantize(200).save(ROOT / "docs/images/demo.png", optimize=True)


def square(picture: Image.Image) -> Image.Image:
    """The middle of a photograph."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.convert("RGB").crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


if __name__ == "__main__":
    main()
