"""Whatever maps images to embeddings is evaluated alike: modules, compiled ones, callables, files, tuples, dictionaries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import facezoo
import tiny_faces  # noqa: F401  (registers the tiny networks)
from facezoo.cli import main
from facezoo.data import PairList, read_pairs
from facezoo.evaluation import embed_images, evaluate_pairs, pair_scores, verification_metrics
from facezoo.evaluation.inputs import score_rows


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return facezoo.create_model("tiny_face", img_size=16, embedding_dim=8, num_classes=3).eval()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairList:
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for person in range(4):
        base = rng.integers(0, 255, (16, 16, 3))
        for photo in range(2):
            path = root / f"p{person}" / f"{photo}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray((base + rng.normal(0, 20, base.shape)).clip(0, 255).astype(np.uint8)).save(path)
    lines = [f"p{n}/0.png p{n}/1.png 1" for n in range(4)] + [f"p{n}/0.png p{(n + 1) % 4}/1.png 0" for n in range(4)]
    (root / "pairs.txt").write_text("\n".join(lines))
    return read_pairs(root / "pairs.txt", root)


class Tuple(nn.Module):
    """HW2P2's networks: the embeddings first, the logits last."""

    def __init__(self, network: Any, form: str) -> None:
        super().__init__()
        self.network, self.form, self.preprocessing = network, form, network.preprocessing

    def forward(self, images: Tensor) -> Any:
        feats, out = self.network.embed(images), self.network(images)
        return (feats, out) if self.form == "tuple" else {"feats": feats, "out": out}


def compiled(network: nn.Module) -> Any:
    return torch.compile(network, backend="eager")


INPUTS: dict[str, Callable[[Any], Any]] = {
    "module": lambda network: network,
    "compiled": compiled,
    "data parallel": nn.DataParallel,
    "callable": lambda network: network.embed,
    "tuple": lambda network: Tuple(network, "tuple"),
    "dictionary": lambda network: Tuple(network, "dictionary"),
    "compiled tuple": lambda network: compiled(Tuple(network, "tuple")),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_network_gives_the_same_scores(kind: str, network: Any, pairs: PairList) -> None:
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = embed_images(network, images)
    torch.testing.assert_close(embed_images(INPUTS[kind](network), images, batch_size=2), expected)
    if kind == "callable":  # it has no preprocessing of its own: images of the default size
        return
    own = evaluate_pairs(INPUTS[kind](network), pairs, bootstrap=0)
    torch.testing.assert_close(own.scores, evaluate_pairs(network, pairs, bootstrap=0).scores)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_exported_files_give_the_same_scores(
    suffix: str, network: Any, pairs: PairList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    file = tmp_path / f"net{suffix}"
    facezoo.export(network, file)
    root = pairs.paths[0].parents[1]
    out = tmp_path / "s.csv"
    arguments = [
        "evaluate",
        file,
        "--pairs",
        root / "pairs.txt",
        "--image-root",
        root,
        "--out",
        out,
        "--device",
        "cpu",
        "--json",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    found = json.loads(capsys.readouterr().out)["pairs.txt"]["metrics"]
    scores = evaluate_pairs(network, pairs, bootstrap=0).scores
    assert found["auc"] == pytest.approx(verification_metrics(scores, pairs.labels, bootstrap=0).auc)
    written = [float(line.split(",")[2]) for line in out.read_text().splitlines()[1:]]
    assert written == pytest.approx(scores.tolist(), abs=1e-4)
    plain = score_rows(pairs, scores).splitlines()
    assert [line.split(",")[:2] for line in plain] == [line.split(",")[:2] for line in out.read_text().splitlines()]


def test_batches_are_small_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def embed(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.mean(dim=(2, 3))

    images = torch.randn(70, 3, 4, 4)
    whole = embed_images(embed, images)
    assert set(sizes[:-1]) == {16}
    torch.testing.assert_close(embed_images(embed, images, batch_size=70), whole)
    assert sizes[-1] == 70
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
            embed_images(embed, images, batch_size=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"the model must give float embeddings \(2, D\)"):
        embed_images(lambda batch: {"nothing": batch}, images[:2])
    assert pair_scores(whole, torch.tensor([0]), torch.tensor([0])).item() == pytest.approx(1)
