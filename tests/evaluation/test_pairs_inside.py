"""Sources that hold pairs with their images, given to the commands as a list of pairs is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import facezoo
import tiny_faces  # noqa: F401  (registers the tiny networks)
from facezoo.cli import main
from facezoo.data import DataError, PackOptions, PairList, open_source, pack
from facezoo.evaluation import evaluate_pairs
from facezoo.evaluation.inputs import open_pairs, open_test_set
from facezoo.evaluation.robustness import measure_robustness
from facezoo.weights import save_pretrained

COUNT = 24


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pairs as a list, as a ``.bin`` and packed, and a network."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(3)
    images, flags, lines = [], [], []
    for number in range(COUNT):
        base = rng.integers(20, 235, (2, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
        same = number % 2
        for side in range(2):
            noise = rng.normal(0, 25, (16, 16, 3))
            picture = Image.fromarray((base[0 if same else side] + noise).clip(0, 255).astype(np.uint8))
            picture.save(root / f"{number:02d}_{side}.png")
            images.append((root / f"{number:02d}_{side}.png").read_bytes())
        flags.append(bool(same))
        lines.append(f"{number:02d}_0.png {number:02d}_1.png {same}")
    (root / "list.txt").write_text("\n".join(lines) + "\n")
    (root / "lfw.bin").write_bytes(pickle.dumps((images, flags)))
    pack(open_source(root / "lfw.bin"), root / "packed", PackOptions(size=(16, 16)))
    torch.manual_seed(0)
    save_pretrained(facezoo.create_model("tiny_face", img_size=16, embedding_dim=8), root / "network", card=False)
    return {name: root / name for name in ("list.txt", "lfw.bin", "packed", "network")}


def figures(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert main([*(str(argument) for argument in arguments), "--json", "--device", "cpu"]) == status
    found: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("kind", ["lfw.bin", "packed"])
def test_they_give_the_figures_of_the_list(
    places: dict[str, Path], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    network = places["network"]
    expected = figures(capsys, "evaluate", network, "--pairs", places["list.txt"])["list.txt"]["metrics"]
    for asked in (("--pairs", places[kind]), (places[kind],)):
        found = figures(capsys, "evaluate", network, *asked)[kind]
        assert {name: value for name, value in found["metrics"].items() if "people" not in name} == {
            name: value for name, value in expected.items() if "people" not in name
        }
        assert len(found["kfold"]["per_fold"]) == 10


def test_the_other_measurements_take_them(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, pairs = places["network"], places["lfw.bin"]
    scores = tmp_path / "scores.csv"
    figures(capsys, "evaluate", network, "--pairs", pairs, "--out", scores)
    assert scores.read_text().splitlines()[1].startswith("000000_0,000000_1,")
    found = figures(capsys, "evaluate", network, "--pairs", pairs, "--against", network)
    assert found["figures"]["eer"]["first"] == found["figures"]["eer"]["second"]
    figures(capsys, "evaluate", network, "--pairs", pairs, "--quality")
    model = facezoo.create_model(f"local-dir:{network}", pretrained=True)
    one, other = (
        measure_robustness(model, open_pairs(places[name]), names=["blur"], bootstrap=0)
        for name in ("list.txt", "lfw.bin")
    )
    assert one.to_dict() == other.to_dict()


def test_a_calibration_is_made_of_them(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        figures(capsys, "calibrate", places["network"], places[name], "--out", tmp_path / f"{name}.json")
        for name in ("list.txt", "lfw.bin", "packed")
    ]
    digests = {one.pop("pairs_sha256") for one in found}
    assert len(digests) == 3
    assert [one.pop("pairs") for one in found] == ["list.txt", "lfw.bin", "packed"]
    assert found[0] == found[1] == found[2]


def test_what_holds_pairs_and_what_does_not(places: dict[str, Path], tmp_path: Path) -> None:
    assert open_test_set(places["lfw.bin"]) is not None
    assert open_test_set(places["packed"]) is not None
    assert open_test_set(places["list.txt"]) is None
    assert open_test_set(places["list.txt"].parent) is None
    people = tmp_path / "people" / "ann"
    people.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(people / "1.png")
    pack(open_source(tmp_path / "people"), tmp_path / "packed", PackOptions(size=(16, 16)))
    assert open_test_set(tmp_path / "packed") is None
    with pytest.raises(DataError, match="holds images, but no pairs"):
        open_pairs(tmp_path / "packed")
    with pytest.raises(ValueError, match="holds the images of its pairs"):
        open_pairs(places["lfw.bin"], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone[.]txt"):
        open_pairs(tmp_path / "gone.txt")


def test_a_list_of_pairs_reads_its_images_from_where_they_are(places: dict[str, Path]) -> None:
    pairs = [open_pairs(places[name]) for name in ("list.txt", "lfw.bin")]
    assert isinstance(pairs[1], PairList)
    for index in range(2 * COUNT):
        np.testing.assert_array_equal(pairs[0].pixels(index), pairs[1].pixels(index))
    model = facezoo.create_model(f"local-dir:{places['network']}", pretrained=True)
    one, other = (evaluate_pairs(model, part, bootstrap=0).scores for part in pairs)
    assert torch.equal(one, other)
