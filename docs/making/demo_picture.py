"""The picture at the head of the README: ``python docs/making/demo_picture.py RUNS_DEMO`` after ``facezoo demo``.

Pairs of each kind, evenly spaced in the demo's LFW-style list, mistakes included; its people chose nothing. The threshold is
the one with the best accuracy on the validation pairs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from facezoo.data import read_lfw_pairs, read_pairs
from facezoo.deploy import load_trained
from facezoo.evaluation import embed_images, evaluate_pairs
from facezoo.files import atomic_path

SIDE, GAP, ROWS, COLUMNS = 64, 8, 2, 7
INK, PAPER, RIGHT, WRONG = "#333333", "#ffffff", "#00796b", "#c62828"


def main(demo: Path, out: Path) -> None:
    """Embed the pairs and paint the sheet."""
    network = load_trained(demo / "run").model
    (faces,) = demo.glob("faces-*")
    validation = evaluate_pairs(network, read_pairs(faces / "val_pairs.txt", faces / "ver_data"), flip="sum")
    threshold = validation.metrics.threshold
    pairs = read_lfw_pairs(faces / "lfw" / "pairs.txt", faces / "lfw")
    shown = [(pairs.paths[first], pairs.paths[second]) for first, second in zip(pairs.left, pairs.right, strict=True)]
    kinds = [[pair for pair, label in zip(shown, pairs.labels, strict=True) if label == kind] for kind in (1, 0)]
    width = COLUMNS * (2 * SIDE + 3 * GAP)
    sheet = Image.new("RGB", (width, ROWS * 2 * (SIDE + 38) + 52), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for kind, (words, rows) in enumerate(zip(("one person", "two people"), kinds, strict=True)):
        top = kind * (sheet.height // 2)
        draw.text((GAP, top + 4), words, INK, font)
        for index, pair in enumerate(rows[:: len(rows) // (ROWS * COLUMNS)][: ROWS * COLUMNS]):
            x, y = (index % COLUMNS) * (2 * SIDE + 3 * GAP) + GAP, top + 26 + (index // COLUMNS) * (SIDE + 38)
            for side, path in enumerate(pair):
                face = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                sheet.paste(face, (x + side * (SIDE + 2), y))
            first, second = embed_images(network, list(pair), flip="sum")
            cosine = float(first @ second)
            right = (cosine >= threshold) == (kind == 0)
            says = f"{cosine:+.2f}  {'same' if cosine >= threshold else 'different'}{'' if right else ' (wrong)'}"
            draw.text((x, y + SIDE + 4), says, RIGHT if right else WRONG, font)
    with atomic_path(out) as path:
        sheet.quantize(128).save(path, format="PNG", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent.parent / "assets" / "demo.png")
