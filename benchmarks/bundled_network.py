"""Train the network that is part of facezoo, on drawn faces, and write its file and its record.

    python benchmarks/bundled_network.py                  # some 15 minutes on one core; nothing is downloaded

Writes records/resnet10_tiny.drawn.safetensors (bfloat16) and records/facezoo.json in src/facezoo/weights. The figures are of drawn
people who were not trained on, from pictures as the demo draws them and from harder ones, with the weights as they are stored.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from facezoo.data import PackOptions, open_face_data, open_source, pack
from facezoo.deploy.checking import fingerprint
from facezoo.evaluation import evaluate_pairs
from facezoo.files import write_atomic
from facezoo.synthetic import write_synthetic_faces
from facezoo.training import Trainer, load_trained
from facezoo.training.recipes import get_recipe
from facezoo.weights import records
from facezoo.weights.io import save_file_atomic
from facezoo.weights.pretrained import sha256_of

MODEL, TAG, STEM, SIZE, DIMENSION = "resnet10_tiny", "drawn", "imagenet", 64, 64
SEED = 23  # another population than that of the demo and of the documentation
DIFFICULTIES = {"of difficulty 0.4": 0.4, "of difficulty 0.65": 0.65}  # of the test; the training is in between
FOLDER = Path(records.__file__).parent


def faces(folder: Path, people: int, images: int, difficulty: float, pairs: int) -> Path:
    """Drawn faces: people to train on, others to verify."""
    return write_synthetic_faces(
        folder, num_identities=people, images_per_identity=images, dev_images=1, test_images=1, verification_identities=400,
        num_pairs=pairs, lfw_identities=0, size=SIZE, difficulty=difficulty, seed=SEED, num_workers=2, progress=False,
    )  # fmt: skip


def train(root: Path, people: int, images: int, epochs: int) -> torch.nn.Module:
    """The trained network, with its weights rounded as they are stored."""
    drawn = faces(root / "drawn", people, images, 0.5, 100)
    pack(open_source(drawn, "layout"), root / "packed", PackOptions(size=(SIZE, SIZE), threads=2))
    own = {"data": str(root / "packed"), "out": str(root / "run"), "model": MODEL, "stem": STEM, "img_size": SIZE}
    own |= {"embedding_dim": DIMENSION, "epochs": epochs, "eval_every": epochs, "num_workers": 0, "wccn_offset": None}
    result = Trainer(get_recipe("tiny-cpu-long").config().replace(**own)).fit()
    network = load_trained(result.last).model.eval()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            parameter.data = rounded(parameter.data)
    return network.bfloat16().float()


def rounded(weights: torch.Tensor) -> torch.Tensor:
    """To five binary digits, so that the file is small in a zip archive."""
    mantissa, exponent = torch.frexp(weights)
    return torch.ldexp((mantissa * 32).round() / 32, exponent)


def figures(network: torch.nn.Module, root: Path) -> list[list[object]]:
    """EER of people who were not trained on."""
    rows: list[list[object]] = []
    for name, difficulty in DIFFICULTIES.items():
        pairs = open_face_data(faces(root / f"test{difficulty}", 2, 1, difficulty, 4000)).val_pairs
        found = evaluate_pairs(network, pairs, flip="sum", bootstrap=200)
        print(name, found, flush=True)
        rows.append([f"drawn people {name}", "EER", round(found.metrics.eer, 4)])
    return rows


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=3000)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        network = train(Path(temporary), options.people, options.images, options.epochs)
        measured = figures(network, Path(temporary))
    file = FOLDER / f"{MODEL}.{TAG}.safetensors"
    tensors = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    save_file_atomic(file, tensors, {"format": "pt"})
    record = {
        "model": MODEL, "tag": TAG, "repository": "facezoo/facezoo", "file": file.name, "sha256": sha256_of(file),
        "page": "https://github.com/facezoo/facezoo", "license": "apache-2.0", "source": "benchmarks/bundled_network.py",
        "training_data": f"{options.people * options.images:,} drawn faces of {options.people:,} people (facezoo.synthetic)",
        "model_args": {"stem": STEM, "embedding_dim": DIMENSION, "img_size": SIZE}, "preprocessing": {"img_size": [SIZE, SIZE]},
        "description": "to try things out without a download: it knows drawn faces, and nothing about photos",
        "fingerprint": [
            [round(value, 4) for value in row] for row in fingerprint(network, network.preprocessing)[:, :8].tolist()
        ],
        "figures": [[*row, "benchmarks/bundled_network.py"] for row in measured],
    }  # fmt: skip
    shared = {"kind": "drawn", "bundled": True, "layout": "facezoo", "status": "measured"}
    text = json.dumps({"group": "facezoo", "shared": shared, "records": [record]}, indent=1, ensure_ascii=False)
    write_atomic(FOLDER / "facezoo.json", f"{text}\n")


if __name__ == "__main__":
    main()
