"""Readers of what is no single list or weight file: runs that go on, galleries, embeddings, packed folders, archives."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facezoo.data import DataError, ImageDecodeError, TarStream, open_source
from facezoo.data.detection import read_landmarks
from facezoo.data.packed import PackedFolder
from facezoo.data.packing import PackOptions, pack
from facezoo.evaluation.calibration import Calibration, CalibrationError, fit_calibration
from facezoo.evaluation.gallery import Gallery, GalleryError
from facezoo.evaluation.inputs import read_embeddings, read_scores
from facezoo.training import TrainConfig
from facezoo.training.checkpoint import TrainState, load_training_checkpoint, save_training_checkpoint
from facezoo.training.loggers import EPOCH_COLUMNS, STEP_COLUMNS, CsvFiles, CsvLog
from facezoo.weights import CheckpointError, save_file_atomic
from facezoo.weights.run_format import NetworkRecord
from harness import Reader
from mutation import mutate_bytes, mutate_json, mutate_lines, mutate_metadata, mutate_safetensors

LISTS = (mutate_lines, mutate_lines, mutate_lines, mutate_bytes)
MISSING = (DataError, FileNotFoundError)


class GoingOn:
    """Reads ``last.safetensors`` into a network of one layer, with its optimizer."""

    def __init__(self) -> None:
        self.config = TrainConfig.from_options(data="faces")
        self.record = NetworkRecord({"name": "x"}, {"name": "linear", "options": {}}, {}, ("a", "b"), {"eer": 0.5})
        self.data = {"train": "8 names"}

    def parts(self) -> dict[str, Any]:
        torch.manual_seed(0)
        objective = nn.ModuleDict({"model": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
        return {"objective": objective, "optimizer": optimizer}

    def file(self, folder: Path) -> bytes:
        parts = self.parts()
        parts["objective"]["head"](parts["objective"]["model"](torch.ones(1, 3))).sum().backward()
        parts["optimizer"].step()
        state = TrainState(
            epoch=2, updates=7, losses=[0.5, 0.25], best=0.75, best_epoch=1, metric="eer", history=[0.75]
        )
        path = folder / "last.safetensors"
        save_training_checkpoint(
            path, record=self.record, config=self.config, state=state, data=self.data, scaler_state={}, **parts
        )
        return path.read_bytes()

    def __call__(self, file: Path) -> Any:
        state, record = load_training_checkpoint(
            file, config=self.config, record=self.record, data=self.data, metric="eer", **self.parts()
        )
        assert state.updates >= 0
        assert isinstance(float(sum(state.losses) + sum(state.history)), float)
        return state, record


def read_run_log(file: Path) -> Any:
    log = CsvLog(file, EPOCH_COLUMNS if file.name == "epochs.csv" else STEP_COLUMNS)
    log.truncate(5)
    reader = CsvFiles()
    reader.steps = reader.epochs = log
    return reader.history() if file.name == "epochs.csv" else log.read()


def in_folder(folder: Path, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """The mutated file takes its place in a copy of a good folder, which is read as a whole."""

    def reader(file: Path) -> Any:
        here = file.parent / "folder"
        if not here.exists():
            shutil.copytree(folder, here)
        shutil.move(file, here / file.name)
        try:
            return read(here)
        finally:
            shutil.copy(folder / file.name, here / file.name)

    return reader


def images_of(path: Path) -> Any:
    source = open_source(path)
    return [source.read(index) for index in range(min(len(source), 8))], source.labels


def records(images: list[bytes]) -> tuple[bytes, bytes]:
    rec, index = b"", ""
    for key, image in enumerate(images, start=1):
        data = struct.pack("<IfQQ", 0, float(key % 2), key, 0) + image
        index += f"{key}\t{len(rec)}\n"
        rec += struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)
    return rec, index.encode()


def shard(images: list[bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, image in enumerate(images):
            for ending, content in (("jpg", image), ("cls", f"{number % 2}".encode())):
                entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def embeddings(folder: Path) -> list[tuple[str, bytes]]:
    rows, names = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), [f"{i}.jpg" for i in range(4)]
    np.savez(folder / "e.npz", embeddings=rows, names=np.array(names))
    save_file_atomic(folder / "e.safetensors", {"embeddings": torch.from_numpy(rows)}, {"names": json.dumps(names)})
    return [(name, (folder / name).read_bytes()) for name in ("e.npz", "e.safetensors")]


def more_readers(images: Path, scratch: Path) -> list[Reader]:
    """The readers; ``images`` is the folder of :func:`readers.write_images`, ``scratch`` an empty one."""
    files = [path.read_bytes() for path in sorted(images.glob("*.jpg"))[:4]]
    going_on = GoingOn()
    people = {name: torch.nn.functional.normalize(torch.randn(2, 3), dim=1) for name in ("Ann", "Bo")}
    scores = np.linspace(-0.5, 0.9, 40)
    calibration = fit_calibration(scores, scores > 0.2, bootstrap=20)
    Gallery.empty(3, source="s", network="n", flip="none", calibration=calibration).add(people).save(
        scratch / "g.safetensors"
    )
    labels = scratch / "labels.txt"
    labels.write_text("".join(f"{path.name} {i % 2}\n" for i, path in enumerate(sorted(images.glob("*.jpg"))[:4])))
    faces = scratch / "faces"
    for number, content in enumerate(files):
        (faces / f"id{number % 2}").mkdir(parents=True, exist_ok=True)
        (faces / f"id{number % 2}" / f"{number}.jpg").write_bytes(content)
    packed = scratch / "packed"
    pack(open_source(faces), packed, PackOptions())
    rec, index = records(files)
    (scratch / "records").mkdir()
    (scratch / "records" / "train.rec").write_bytes(rec)
    (scratch / "records" / "train.idx").write_bytes(index)
    flags = pickle.dumps((files, [True, False]), protocol=4)
    numpys = pickle.dumps((files, np.array([True, False])), protocol=2)
    logs = Path(__file__).resolve().parents[1] / "fixtures" / "before_second_edition" / "run_stopped_after_7"
    points = [f"{i}.jpg,{','.join(str(10.5 + j) for j in range(10))}" for i in range(3)]
    as_json = json.dumps({f"{i}.jpg": [[10.5, 3]] * 5 for i in range(3)})
    return [
        Reader("going_on", (("last.safetensors", going_on.file(scratch)),), (mutate_metadata, mutate_metadata, mutate_safetensors),
               going_on, (CheckpointError,), cost=3.0),
        Reader("run_logs", tuple((f"{n}.csv", (logs / f"{n}.csv").read_bytes()) for n in ("epochs", "steps")), LISTS,
               read_run_log, (ValueError,), cost=0.5),
        Reader("gallery", (("g.safetensors", (scratch / "g.safetensors").read_bytes()),), (mutate_metadata, mutate_safetensors),
               Gallery.load, (GalleryError,), cost=1.0),
        Reader("calibration", (("c.json", json.dumps(calibration.to_dict()).encode()),), (mutate_json, mutate_bytes),
               Calibration.load, (CalibrationError,)),
        Reader("embeddings", tuple(embeddings(scratch)), (mutate_bytes,), read_embeddings, (DataError,), cost=1.0),
        Reader("scores", (("scores.csv", b"left,right,score,label,fold\na,b,0.5,1,0\nc,d,-0.25,0,1\n"),), LISTS,
               read_scores, (DataError,)),
        Reader("landmarks", (("points.csv", ("\n".join(points) + "\n").encode()),), LISTS, read_landmarks, MISSING),
        Reader("landmarks_json", (("points.json", as_json.encode()),), (mutate_json,), read_landmarks, MISSING),
        Reader("packed_header", (("packed.json", (packed / "packed.json").read_bytes()),), (mutate_json, mutate_bytes),
               in_folder(packed, lambda folder: tuple(PackedFolder(folder).names)), MISSING, cost=2.0),
        Reader("packed_files", tuple((name, (packed / name).read_bytes()) for name in ("index.npz", "names.txt", "identities.txt")),
               (mutate_bytes,), in_folder(packed, lambda folder: tuple(PackedFolder(folder).names)), MISSING, cost=2.0),
        Reader("records", (("train.rec", rec),), (mutate_bytes,), images_of, MISSING, cost=1.0),
        Reader("records_index", (("train.idx", index),), LISTS, in_folder(scratch / "records", images_of), MISSING, cost=1.0),
        Reader("tar", (("shard.tar", shard(files)),), (mutate_bytes,), images_of, MISSING, cost=1.0),
        Reader("tar_stream", (("shard.tar", shard(files)),), (mutate_bytes,), lambda path: list(TarStream(path)),
               (*MISSING, ImageDecodeError), cost=1.0),
        Reader("bin", (("lfw.bin", flags), ("numpy.bin", numpys)), (mutate_bytes,), images_of, MISSING, cost=1.0),
    ]  # fmt: skip
