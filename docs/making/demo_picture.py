"""The picture at the head of the README and the documentation, on white and on dark paper.

``python docs/making/demo_picture.py RUNS_DEMO`` after ``facezoo demo``.

Pairs of each kind, evenly spaced in the demo's LFW-style list, mistakes included; its people chose nothing. The threshold is
the one with the best accuracy on the validation pairs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from facezoo.data import read_lfw_pairs, read_pairs
from facezoo.deploy import load_trained
from facezoo.evaluation import embed_images, evaluate_pairs
from facezoo.files import atomic_path

SIDE, GAP, ROWS, COLUMNS = 64, 8, 2, 7
ASSETS = Path(__file__).parent.parent / "assets"


class Colors(NamedTuple):
    """Colors of a sheet: paper, words, answers."""

    paper: str
    ink: str
    right: str
    wrong: str


SHEETS = {
    "demo.png": Colors("#ffffff", "#333333", "#00796b", "#c62828"),
    "demo_dark.png": Colors("#1e2129", "#cfd3dc", "#4db6ac", "#ef9a9a"),
}


class Pair(NamedTuple):
    """Two images, their cosine, what the network says, and whether it is right."""

    paths: tuple[Path, Path]
    cosine: float
    same: bool
    right: bool


def main(demo: Path) -> None:
    """Embed the pairs and paint the sheets."""
    network = load_trained(demo / "run").model
    (faces,) = demo.glob("faces-*")
    validation = evaluate_pairs(network, read_pairs(faces / "val_pairs.txt", faces / "ver_data"), flip="sum")
    threshold = validation.metrics.threshold
    pairs = read_lfw_pairs(faces / "lfw" / "pairs.txt", faces / "lfw")
    shown = [(pairs.paths[first], pairs.paths[second]) for first, second in zip(pairs.left, pairs.right, strict=True)]
    kinds: dict[str, list[Pair]] = {}
    for words, kind in (("one person", 1), ("two people", 0)):
        of_kind = [pair for pair, label in zip(shown, pairs.labels, strict=True) if label == kind]
        kinds[words] = []
        for pair in of_kind[:: len(of_kind) // (ROWS * COLUMNS)][: ROWS * COLUMNS]:
            first, second = embed_images(network, list(pair), flip="sum")
            cosine = float(first @ second)
            same = cosine >= threshold
            kinds[words].append(Pair(pair, cosine, same, same == bool(kind)))
    for name, colors in SHEETS.items():
        with atomic_path(ASSETS / name) as path:
            paint(kinds, colors).quantize(128).save(path, format="PNG", optimize=True)


def paint(kinds: dict[str, list[Pair]], colors: Colors) -> Image.Image:
    """One sheet: the pairs of each kind under its words."""
    sheet = Image.new("RGB", (COLUMNS * (2 * SIDE + 3 * GAP), ROWS * 2 * (SIDE + 38) + 52), colors.paper)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for kind, (words, pairs) in enumerate(kinds.items()):
        top = kind * (sheet.height // 2)
        draw.text((GAP, top + 4), words, colors.ink, font)
        for index, pair in enumerate(pairs):
            x, y = (index % COLUMNS) * (2 * SIDE + 3 * GAP) + GAP, top + 26 + (index // COLUMNS) * (SIDE + 38)
            for side, path in enumerate(pair.paths):
                face = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                sheet.paste(face, (x + side * (SIDE + 2), y))
            says = f"{pair.cosine:+.2f}  {'same' if pair.same else 'different'}{'' if pair.right else ' (wrong)'}"
            draw.text((x, y + SIDE + 4), says, colors.right if pair.right else colors.wrong, font)
    return sheet


if __name__ == "__main__":
    main(Path(sys.argv[1]))
