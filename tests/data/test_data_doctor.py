from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import facezoo
import tiny_faces  # noqa: F401  (registers the tiny networks)
from facezoo.cli import main
from facezoo.data import DataError, open_source
from facezoo.data.doctor import contact_sheet, examine
from facezoo.data.speeds import measure_speeds
from facezoo.data.suspects import suspects
from facezoo.weights import save_pretrained
from small_packs import write_pictures


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "faces" / f"p{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "faces"


def test_the_sheet_shows_images_as_they_are_and_augmented(faces: Path, tmp_path: Path) -> None:
    assert main(["preview", str(faces), "--out", str(tmp_path / "s.png"), "--images", "3", "--variants", "2"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape == (3 * 40, 3 * 48, 3)
    source = open_source(faces)
    for row, index in enumerate((0, 2, 5)):
        assert np.array_equal(sheet[40 * row : 40 * row + 40, :48], source.pixels(index))
        assert not np.array_equal(sheet[40 * row : 40 * row + 40, 48:96], source.pixels(index))
    contact_sheet(source, tmp_path / "n.png", augment="none", images=1, variants=1)
    plain = np.asarray(Image.open(tmp_path / "n.png"))
    assert np.array_equal(plain[:, :48], plain[:, 48:])
    with pytest.raises(ValueError, match=r"is a \.png or \.jpg; got .*s\.gif"):
        contact_sheet(source, tmp_path / "s.gif")


def test_the_doctor_finds_what_is_there(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (faces / "p0" / "copy.png").write_bytes((faces / "p0" / "0.png").read_bytes())
    (faces / "p1" / "copy.png").write_bytes((faces / "p0" / "2.png").read_bytes())
    (faces / "p1" / "broken.png").write_bytes(b"x")
    Image.new("RGB", (20, 20)).save(faces / "p1" / "small.png")
    found = examine(open_source(faces))
    assert (found.images, found.looked_at, found.identities, found.splits) == (10, 10, 2, {"train": 10})
    assert found.per_identity == (4, 5.0, 6)
    assert found.sizes == [((40, 48), 8 / 9), ((20, 20), 1 / 9)]
    assert found.unreadable == ["p1/broken.png"]
    assert found.duplicates == [("p0/2.png", "p1/copy.png"), ("p0/0.png", "p0/copy.png")]
    assert found.contradictions == 1
    source = open_source(faces)
    pixels = np.concatenate(
        [source.pixels(n).reshape(-1, 3) for n in range(10) if n != source_index(source, "p1/broken.png")]
    )
    assert found.mean == pytest.approx((pixels / 255).mean(0).tolist())
    assert found.std == pytest.approx((pixels / 255).std(0).tolist())
    assert main(["doctor", str(faces)]) == 0
    said = capsys.readouterr().out
    assert "2 with the same pixels, 1 of them of different identities: p0/2.png = p1/copy.png" in said
    assert examine(source, most=2).looked_at == 2


def source_index(source: object, name: str) -> int:
    return next(n for n in range(len(source)) if source.name(n) == name)  # type: ignore[attr-defined,arg-type]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no image can be read"):
        examine(open_source(tmp_path))


# ------------------------------------------------------------------ wrong labels, and what one waits for


def test_swapped_labels_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(6, 32, generator=generator)
    labels = torch.arange(6).repeat(10)
    embeddings = centers[labels] + 0.3 * torch.randn(60, 32, generator=generator)
    wrong = labels.clone()
    wrong[7], wrong[21] = 4, 0  # of 1 and of 3
    found = suspects(embeddings, wrong)
    assert {(one.index, one.other) for one in found} == {(7, 1), (21, 3)}
    assert suspects(embeddings, labels) == []
    # against the definition, image by image
    units = torch.nn.functional.normalize(embeddings, dim=1)
    for one in found:
        own = (wrong == wrong[one.index]).clone()
        own[one.index] = False
        assert one.own == pytest.approx(
            float(torch.cosine_similarity(units[one.index], units[own].sum(0), dim=0)), abs=1e-5
        )
        theirs = units[wrong == one.other].sum(0)
        assert one.cosine == pytest.approx(float(torch.cosine_similarity(units[one.index], theirs, dim=0)), abs=1e-5)
    assert found[0].cosine - found[0].own >= found[1].cosine - found[1].own


def test_an_image_alone_is_no_suspect_and_two_claim_nobody() -> None:
    embeddings = torch.tensor([[1.0, 0], [1, 0.1], [1, 0.2], [0, 1], [1, 0]])
    assert suspects(embeddings, [0, 0, 0, 1, 2]) == []
    assert [one.index for one in suspects(embeddings, [0, 0, 0, 1, 1])] == [4, 3]
    assert suspects(embeddings, [0, 0, 2, 1, 1]) == []
    assert suspects(torch.zeros(0, 4), []) == []
    for arguments, message in (
        ((embeddings, [0]), "and N labels"),
        ((embeddings, [0, 0, 0, 0, -1]), "a label is negative"),
        ((embeddings / 0, [0] * 5), "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            suspects(*arguments)


def test_speeds_name_what_one_waits_for() -> None:
    def slow(seconds: float) -> None:
        time.sleep(seconds)

    def batches(pause: float) -> Iterator[torch.Tensor]:
        for _ in range(3):
            slow(pause)
            yield torch.zeros(4, 1, 1, 1)

    waits = measure_speeds(lambda: batches(0.02), lambda _: slow(0.002), seconds=0.1)
    assert waits.loader < waits.network
    assert str(waits).endswith("training waits for the loader")
    waits = measure_speeds(lambda: batches(0.002), lambda _: slow(0.02), seconds=0.1)
    assert str(waits).endswith("training waits for the network")
    assert waits.together < waits.network * 1.5
    with pytest.raises(ValueError, match="fewer images than fill one batch"):
        measure_speeds(lambda: iter(()), lambda _: None, seconds=0)


def test_the_doctor_with_a_network(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (faces / "p1" / "broken.png").write_bytes(b"x")
    table = faces.parent / "suspects.csv"
    model = facezoo.create_model("tiny_face", embedding_dim=8)
    save_pretrained(model, faces.parent / "net", card=False)
    words = [
        "doctor",
        str(faces),
        "--network",
        f"local-dir:{faces.parent / 'net'}",
        "--batch-size",
        "3",
        "--seconds",
        "0",
        "--suspects",
        str(table),
    ]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "of 6 images are nearer to another identity's mean" in said
    assert "training waits for the" in said
    assert "(forward and backward, batches of 3, augmentation standard)" in said
    assert table.read_text().startswith("image,identity,cosine,nearest,its cosine\n")
    assert main(["doctor", str(faces), "--suspects", str(table)]) == 2
    assert "--suspects needs a --network" in capsys.readouterr().err


def test_results_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that looks at data gives one JSON object with --json, also the doctor with a network."""
    faces = write_pictures(tmp_path / "faces", images=36)
    out = str(tmp_path / "packed")
    network = ["--network", "resnet10_tiny.drawn", "--seconds", "0.01", "--batch-size", "8"]
    for command, keys in (
        (["pack", str(faces), "--out", out, "--alignment", "none"], {"folder", "images", "left_out", "problems"}),
        (["pack", out, "--verify"], {"folder", "images", "identities"}),
        (
            ["preview", str(faces), "--out", str(tmp_path / "p.png"), "--images", "2"],
            {"picture", "augment", "variants"},
        ),
        (["doctor", out], {"images", "identities", "splits", "duplicates", "mean"}),
        (["doctor", out, *network], {"images", "suspects", "speeds"}),
    ):
        assert main([*command, "--json"]) == 0
        assert keys <= set(json.loads(capsys.readouterr().out))
    assert json.loads((tmp_path / "packed" / "packed.json").read_text())["alignment"] is None
