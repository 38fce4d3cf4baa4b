"""Every reader of files that people bring: its good files, its declared errors, and what the file means read independently."""

from __future__ import annotations

import csv
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import facezoo
import tiny_faces  # noqa: F401  (registers the networks of the seeds)
from facezoo.courses.submission import SubmissionError, check_submission
from facezoo.data import DataError, ImageDecodeError, LabeledImages, read_image, read_lfw_pairs, read_pairs
from facezoo.evaluation.report import read_training_log
from facezoo.training import TrainConfig, load_trained
from facezoo.weights import CheckpointError, load_checkpoint, read_file, read_state_dict
from facezoo.weights.pretrained import PretrainedConfig
from harness import Reader
from mutation import (
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_metadata,
    mutate_safetensors,
    mutate_state_dict,
)

TOML = [
    "epochs = 4",
    "lr = 0.1",
    'model = "resnet18"',
    "margin_options = { scale = 16.0, margin = 0.2 }",
    "progress = false",
]
# Every setting that holds names of the user's.
NAMED = TrainConfig().to_dict()
NAMED["model"] |= {
    "freeze": ["stem", "stages.0"],
    "unfreeze": {"stem": 3},
    "joint": {"triplet": {"weight": 0.1, "memory": 64, "memory_delay": 2, "lr_scale": 2.0, "warmup": 5}},
    "joint_options": {"triplet": {"margin": 0.3}},
}
NAMED["optimization"] |= {"lr_scales": {"head": 10.0}}
FIRST_EDITION = Path(__file__).resolve().parents[1] / "fixtures" / "before_second_edition"
NAMES = [f"{letter}.jpg" for letter in "abcdefgh"]


def image_bytes(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(stream, kind, **options)
    return stream.getvalue()


def write_images(folder: Path) -> Path:
    """The images that the lists name."""
    for name in NAMES:
        (folder / name).write_bytes(image_bytes("JPEG"))
    for person in ("Ann_Li", "Bo_Xu"):
        (folder / person).mkdir()
        for number in range(1, 5):
            (folder / person / f"{person}_{number:04d}.jpg").write_bytes(image_bytes("JPEG"))
    return folder


# -- what a list means, read independently --------------------------------------------------------------------------------------


def plain_rows(content: bytes) -> list[list[str]] | None:
    """The fields of the lines, where there is nothing to decide: UTF-8, spaces only, no quotes. None for other files."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not text.isascii() or any(character in text for character in "\t,;\"'\\\r\x00\x0b\x0c\x1a\x1c\x1d\x1e\x1f#"):
        return None
    return [line.split() for line in text.split("\n") if line.strip()]


def check_pairs(content: bytes, pairs: Any) -> None:
    rows = plain_rows(content)
    if rows is None or any(field.startswith("./") for row in rows for field in row):
        return
    got = [
        [pairs.paths[left].name, pairs.paths[right].name]
        for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
    ]
    if len(got) != len(rows):
        # Duplicates may be dropped; nothing may be added.
        assert len(got) < len(rows), "more pairs than lines"
        return
    assert got == [row[:2] for row in rows], "other images than the list names"
    if pairs.labels is not None:
        assert [int(label) for label in pairs.labels] == [int(row[2]) for row in rows], "other labels than the list has"


def check_lfw(content: bytes, pairs: Any) -> None:
    rows = plain_rows(content)
    if rows is None:
        return
    expected = [len(row) == 3 for row in rows[1:]]
    assert pairs.labels.tolist() == expected, "other labels than the forms of the lines say"
    for row, left, right in zip(rows[1:], pairs.left.tolist(), pairs.right.tolist(), strict=True):
        other = row[0] if len(row) == 3 else row[2]
        assert pairs.paths[left].stem == f"{row[0]}_{int(row[1]):04d}", "another image than the line names"
        assert pairs.paths[right].stem == f"{other}_{int(row[-1]):04d}", "another image than the line names"


def check_labels(content: bytes, data: Any) -> None:
    rows = plain_rows(content)
    if rows is None or any(len(row) != 2 or row[0].startswith("./") for row in rows):
        return
    by_name = {row[0]: row[1] for row in rows}
    for name, label in zip(data.names, data.labels.tolist(), strict=True):
        written = by_name[name]
        assert data.classes[label] == written or (written.isdecimal() and int(written) == label), "another label"


def check_rows(content: bytes, check: Any) -> None:
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))[1:]
    assert len(rows) == check.rows == 6, "another number of rows"
    for position, row in enumerate(rows):
        assert row[0] == check.format.row_id(position), "an ID out of order"
        if check.format.task == "classification":
            assert 0 <= int(row[1]) < check.format.num_classes, "no class index"
        elif check.format.task == "verification":
            assert np.isfinite(float(row[1])), "no finite score"


def check_config(content: bytes, config: TrainConfig) -> None:
    written = config.to_dict()
    assert TrainConfig.from_dict(json.loads(json.dumps(written))) == config, (
        "settings that do not survive being written"
    )
    if not content.lstrip().startswith(b"{"):
        return  # TOML
    values = json.loads(content)
    for section, entries in written.items():
        inside = values.get(section)
        for name, value in entries.items():
            source = inside if isinstance(inside, dict) else values
            if type(value) in (int, float, bool) and type(source.get(name)) in (int, float, bool):
                assert float(value) == float(source[name]), f"{name} is {value!r}, the file says {source[name]!r}"


def check_log(content: bytes, columns: dict[str, list[float]]) -> None:
    assert len({len(values) for values in columns.values()}) == 1, "columns of different lengths"
    lines = content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert all(len(values) < max(2, len(lines)) for values in columns.values()), "more rows than lines"


def check_tensors(content: bytes, read: tuple[dict[str, Any], dict[str, str]]) -> None:
    tensors, metadata = read
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    assert metadata == (header.pop("__metadata__", None) or {}), "other texts in the header"
    assert tensors.keys() == header.keys(), "other tensors than the header names"
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        assert list(tensors[name].shape) == entry["shape"], "another shape"
        if entry["dtype"] in ("F32", "I64", "U8"):
            raw = content[8 + length + start : 8 + length + end]
            assert tensors[name].numpy().tobytes() == raw, "other numbers than the file holds"


def check_state(content: bytes, state: dict[str, Any]) -> None:
    for name, tensor in state.items():
        assert isinstance(name, str)
        assert isinstance(tensor, torch.Tensor)


def check_image(content: bytes, image: Any) -> None:
    assert image.mode == "RGB", "another mode"
    with Image.open(io.BytesIO(content)) as header:
        assert image.size in (header.size, header.size[::-1]), "another size than the header says"


# -- weights into a network -------------------------------------------------------------------------------------------------------


class IntoNetwork:
    """Loads a file into one network, which must be whole after a success and unchanged after an error."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = facezoo.create_model("tiny_convnext", embedding_dim=4, img_size=16).eval()
        self.good = {name: value.clone() for name, value in self.model.state_dict().items()}

    def file(self) -> bytes:
        stream = io.BytesIO()
        torch.save(self.good, stream)
        return stream.getvalue()

    def __call__(self, file: Path) -> Any:
        self.model.load_state_dict(self.good)
        try:
            load_checkpoint(self.model, file)
        except Exception:
            for name, value in self.model.state_dict().items():
                assert torch.equal(value, self.good[name]), f"{name} was changed by a file that was refused"
            raise
        for name, value in self.model.state_dict().items():
            assert value.dtype == self.good[name].dtype, f"{name} has another type"
            assert bool(value.isfinite().all()), f"{name} is not finite"
            assert value.shape == self.good[name].shape, f"{name} has another shape"
        return self.model


def as_submission(task: str, term: str) -> Any:
    def read(file: Path) -> Any:
        return check_submission(file, term=term, task=task, expected_rows=6)  # type: ignore[arg-type]

    return read


def submission(header: str, row: Any) -> bytes:
    return (header + "\n" + "".join(f"{row(index)}\n" for index in range(6))).encode()


def text_seed(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def all_readers(images: Path) -> list[Reader]:
    """Every reader; ``images`` is the folder of :func:`write_images`."""
    run, saved = FIRST_EDITION / "run_stopped_after_7", FIRST_EDITION / "save_pretrained"
    pairs = [f"{NAMES[i % 8]} {NAMES[(3 * i + 1) % 8]} {i % 2}" for i in range(8)]
    lfw = ["2 2", *("Ann_Li 1 2", "Bo_Xu 3 4", "Ann_Li 1 Bo_Xu 1", "Ann_Li 2 Bo_Xu 2") * 2]
    into_network = IntoNetwork()
    missing = (DataError, FileNotFoundError)
    lists = (mutate_lines, mutate_lines, mutate_lines, mutate_bytes)
    return [
        Reader("pairs", (("val_pairs.txt", text_seed(pairs)), ("test_pairs.txt", text_seed([p[:11] for p in pairs]))), lists,
               lambda file: read_pairs(file, images), missing, check_pairs),
        Reader("lfw_pairs", (("pairs.txt", text_seed(lfw)), ("view1.txt", text_seed(["2", *lfw[1:5]]))), lists,
               lambda file: read_lfw_pairs(file, images), missing, check_lfw),
        Reader("labels", (("labels.txt", text_seed([f"{name} {i % 3}" for i, name in enumerate(NAMES)])),
                          ("named.txt", text_seed([f"{name} n{i % 3:06d}" for i, name in enumerate(NAMES)]))), lists,
               lambda file: LabeledImages(images, file), missing, check_labels),
        Reader("submission_scores", (("f24.csv", submission("ID,Label", lambda i: f"{i},{0.1 * i - 0.2:.3f}")),), lists,
               as_submission("verification", "F24"), (SubmissionError,), check_rows, lines=7),
        Reader("submission_classes", (("s22.csv", submission("id,label", lambda i: f"{i:06d}.jpg,{i * 31}")),), lists,
               as_submission("classification", "S22"), (SubmissionError,), check_rows, lines=7),
        Reader("submission_gallery", (("s23.csv", submission("id,label", lambda i: f"{i},n{i:06d}")),), lists,
               as_submission("gallery", "S23"), (SubmissionError,), check_rows, lines=7),
        Reader("train_config", (("old.json", (run / "config.json").read_bytes()),
                                ("config.json", json.dumps(TrainConfig().to_dict()).encode()),
                                ("named.json", json.dumps(NAMED).encode())), (mutate_json,),
               TrainConfig.load, (ValueError, TypeError, OSError), check_config, cost=1.0),
        Reader("train_config_toml", (("recipe.toml", text_seed(TOML)),), lists,
               TrainConfig.load, (ValueError, TypeError, OSError), check_config, cost=1.0),
        Reader("training_log", tuple((f"{n}.csv", (run / f"{n}.csv").read_bytes()) for n in ("epochs", "steps")), lists,
               read_training_log, (ValueError, FileNotFoundError), check_log),
        Reader("pretrained_config", (("config.json", (saved / "config.json").read_bytes()),), (mutate_json,),
               lambda file: PretrainedConfig.read(file, "local-dir:here"), (CheckpointError,), cost=1.0),
        Reader("safetensors", (("model.safetensors", (saved / "model.safetensors").read_bytes()),),
               (mutate_safetensors, mutate_bytes), read_file, (CheckpointError,), check_tensors, cost=1.0),
        Reader("training_checkpoint", (("best.safetensors", (run / "best.safetensors").read_bytes()),),
               (mutate_metadata, mutate_metadata, mutate_safetensors), load_trained, (CheckpointError,), cost=15.0),
        Reader("pth", (("weights.pth", into_network.file()),), (mutate_state_dict, mutate_bytes),
               read_state_dict, (CheckpointError,), check_state, cost=4.0),
        Reader("weights_into_network", (("weights.pth", into_network.file()),), (mutate_state_dict,),
               into_network, (CheckpointError,), cost=10.0, lines=40),
        Reader("image", tuple((f"face.{kind.lower()}", image_bytes(kind, **options)) for kind, options in (
                   ("JPEG", {}), ("PNG", {}), ("BMP", {}), ("WEBP", {}), ("JPEG", {"progressive": True}), ("PNG", {"mode": "P"}),
                   ("PNG", {"mode": "RGBA"}), ("JPEG", {"mode": "L"}), ("GIF", {}), ("TIFF", {}),
                   ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("PPM", {"mode": "L"}))), (mutate_bytes,),
               read_image, (ImageDecodeError,), check_image),
    ]  # fmt: skip
