"""The demo's network learns: it tells apart people that it was never trained on, much better than before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from facezoo.cli.demo import FAST, FULL, DemoPlan, _extent, run_demo


@pytest.mark.slow  # four minutes of one core; the small demo below learns in .ci/run
def test_the_demos_network_learns(tmp_path: Path) -> None:
    """Work is fixed, not time: the same five epochs on every machine."""
    demo = run_demo(tmp_path, plan=replace(FULL, max_epochs=5, seconds=float("inf")))
    trained, untrained = demo.trained.metrics, demo.untrained.metrics
    assert demo.epochs == 5
    assert trained is not None
    assert untrained is not None
    assert untrained.eer >= 0.40, "somebody is told apart without learning: the faces are too easy"
    assert trained.eer <= untrained.eer - 0.20
    assert trained.eer_interval[1] < untrained.eer_interval[0]
    assert "EER on the validation pairs" in demo.report.read_text()
    assert len(demo.submission.read_text().splitlines()) == FULL.pairs + 1


@pytest.mark.ci
def test_nobody_is_told_apart_by_one_color(tmp_path: Path) -> None:
    """Mean color of the picture, and of its middle, say next to nothing about who it is."""
    import numpy as np
    from PIL import Image

    from facezoo.evaluation import verification_metrics
    from facezoo.synthetic import write_synthetic_faces

    faces = write_synthetic_faces(
        tmp_path / "faces", num_identities=1, images_per_identity=1, dev_images=0, test_images=0, lfw_identities=0,
        size=FULL.img_size, difficulty=FULL.difficulty, progress=False,
    )  # fmt: skip
    pairs = [line.split() for line in (faces / "val_pairs.txt").read_text().splitlines()]
    labels = torch.tensor([int(same) for _, _, same in pairs]).bool()
    for window in (slice(None), slice(FULL.img_size // 3, 2 * FULL.img_size // 3)):

        def color(name: str, window: slice = window) -> np.ndarray:
            return np.asarray(Image.open(faces / "ver_data" / name), dtype=float)[window, window].mean((0, 1))

        scores = torch.tensor([-float(np.linalg.norm(color(a) - color(b))) for a, b, _ in pairs])
        assert verification_metrics(scores, labels, bootstrap=0).eer >= 0.35


def test_a_training_cut_short_says_so() -> None:
    plan = DemoPlan(identities=2, images=2, pairs=20, img_size=64, max_epochs=8, seconds=30.0)
    assert _extent(8, plan) == "8 epochs"
    assert "5 of 8 epochs, cut short" in _extent(5, plan)


@pytest.mark.ci
def test_the_fast_demo_finds_people_in_a_gallery(tmp_path: Path) -> None:
    """What the tutorial on photos does with the demo's folder: more people are named rightly than could be by chance."""
    from facezoo.deploy import load_trained
    from facezoo.evaluation import embed_images
    from facezoo.evaluation.gallery import Gallery, rows_by_person

    demo = run_demo(tmp_path, plan=replace(FAST, seconds=float("inf")))
    network = load_trained(demo.run).model

    def embedded(folder: Path) -> tuple[torch.Tensor, list[str]]:
        photos = sorted(folder.rglob("*.jpg"))
        return embed_images(network, photos, flip="sum"), [photo.parent.name for photo in photos]

    gallery = Gallery.empty(network.embedding_dim).add(rows_by_person(*embedded(demo.faces / "cls_data" / "train")))
    probes, people = embedded(demo.faces / "cls_data" / "test")
    answers = gallery.identify(probes, fpir=0.1)
    right = sum(answer.name == person for answer, person in zip(answers, people, strict=True))
    named = sum(answer.name is not None for answer in answers)
    assert right >= 0.25 * len(people)
    assert right >= 0.7 * named
