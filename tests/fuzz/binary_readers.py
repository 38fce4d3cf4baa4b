"""Readers of files that other people's C++ reads too: LMDB, parquet, ONNX."""

from __future__ import annotations

import io
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import torch

from facezoo.data import DataError, open_source
from facezoo.models import FaceNetwork, HeadSpec, ModelSpec, StageSpec, StemSpec, stage
from facezoo.models.spec import BlockSpec
from facezoo.weights import CheckpointError, load_checkpoint
from harness import Reader
from mutation import NUMBERS, mutate_bytes

MISSING = (DataError, FileNotFoundError)
TINY = ModelSpec(
    name="tiny_onnx",
    family="tests",
    stems={"face": StemSpec("conv_stem", 4, stride=2, stage_strides=(2, 1), options={"act": "prelu"})},
    stages=(stage("ir", 1, 4), StageSpec(8, (BlockSpec("conv", options={"kernel_size": 1}),))),
    head=HeadSpec("norm", {"map_norm": "batch", "bias": True}, global_pool="flatten"),
    init="iresnet",
    paper="1801.07698",
    description="a network of three layers",
)


def tiny_network() -> FaceNetwork:
    torch.manual_seed(0)
    return FaceNetwork(TINY, img_size=16, embedding_dim=3).eval()


def onnx_file(scratch: Path) -> bytes:
    """An export with all norms in place, so that every kind of node occurs."""
    path = scratch / "tiny.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mode = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(
            tiny_network(), (torch.zeros(1, 3, 16, 16),), path, dynamo=False, opset_version=13, training=mode
        )
    return path.read_bytes()


def mutate_onnx(data: bytes, rng: random.Random) -> bytes:
    """One to three fields of the graph are changed: names, kinds, sizes, attributes, what a node reads."""
    import onnx

    model = onnx.load_from_string(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        nodes, tensors = model.graph.node, model.graph.initializer
        node, tensor = rng.choice(nodes), rng.choice(tensors)
        names = [name for entry in nodes for name in (*entry.input, *entry.output)]
        kind = rng.randrange(11)
        if kind == 0:
            node.op_type = rng.choice(("Conv", "Gemm", "MatMul", "PRelu", "BatchNormalization", "Add", "Identity", "X"))
        elif kind == 1 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nobody"])
        elif kind == 2 and node.output:
            node.output[0] = rng.choice(names)
        elif kind == 3 and node.input:
            node.input.pop()
        elif kind == 4 and node.attribute:
            attribute = rng.choice(node.attribute)
            attribute.i, attribute.f = (
                rng.choice((-1, 0, 1, 2, 2**31, -(2**63))),
                rng.choice((0.0, -1.0, 1e38, float("nan"))),
            )
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice((-1, 0, 1, 3, 2**40))
        elif kind == 5 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = (
                rng.choice((-1, 0, 1, 2, 5, 2**20, 2**62, *NUMBERS[:2])) % 2**63
            )
        elif kind == 6:
            tensor.data_type = rng.randrange(25)
        elif kind == 7:
            tensor.raw_data = mutate_bytes(tensor.raw_data, rng)
        elif kind == 8:
            tensor.name = rng.choice([*names, ""])
        elif kind == 9:
            del nodes[rng.randrange(len(nodes))]
        else:
            nodes.append(rng.choice(nodes))
        if not nodes or not tensors:
            break
    return model.SerializeToString()


def read_onnx_file(file: Path) -> Any:
    network = tiny_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    try:
        return load_checkpoint(network, file)
    except BaseException:
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        raise


def read_images(file: Path) -> Any:
    source = open_source(file)
    return [source.read(index) for index in range(min(len(source), 8))], source.labels


def lmdb_file(scratch: Path, images: list[bytes]) -> bytes:
    """Small values on the page of their key, large ones on pages of their own, and enough keys for a page that leads to others."""
    import lmdb
    import msgpack

    with lmdb.open(str(scratch / "lmdb"), map_size=2**20) as environment, environment.begin(write=True) as transaction:
        for number, image in enumerate(images):
            transaction.put(f"id{number % 2}/{number}.jpg".encode(), image)
        for number in range(60):
            write = (pickle.dumps, msgpack.dumps)[number % 2]
            transaction.put(f"{'k' * 40}{number}".encode(), write((b"\xff\xd8\xff" + bytes(60), number % 3)))
    content = (scratch / "lmdb" / "data.mdb").read_bytes()
    used = len(content.rstrip(b"\0"))
    return content[: used + -used % 4096]


def parquet_files(images: list[bytes]) -> list[tuple[str, bytes]]:
    import pyarrow as arrow
    from pyarrow import parquet

    def write(columns: dict[str, Any], **options: Any) -> bytes:
        stream = io.BytesIO()
        parquet.write_table(arrow.table(columns), stream, row_group_size=2, **options)
        return stream.getvalue()

    files = [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images)]
    half = len(images) // 2
    pairs = {"image1": images[:half], "image2": images[half : 2 * half], "target": [i % 2 for i in range(half)]}
    return [
        ("hub.parquet", write({"image": files, "label": [i % 2 for i in range(len(files))]})),
        (
            "plain.parquet",
            write({"image": images, "label": [f"p{i % 2}" for i in range(len(files))]}, compression="none"),
        ),
        ("pairs.parquet", write(pairs)),
    ]


def binary_readers(images: Path, scratch: Path) -> list[Reader]:
    """The readers; ``images`` is the folder of :func:`readers.write_images`, ``scratch`` an empty one."""
    files = [path.read_bytes() for path in sorted(images.glob("*.jpg"))[:4]]
    return [
        Reader("lmdb", (("faces.lmdb", lmdb_file(scratch, files)),), (mutate_bytes,), read_images, MISSING, cost=1.0),
        Reader("parquet", tuple(parquet_files(files)), (mutate_bytes,), read_images, MISSING, cost=2.0),
        Reader("onnx", (("tiny.onnx", onnx_file(scratch)),), (mutate_onnx, mutate_onnx, mutate_bytes), read_onnx_file,
               (CheckpointError,), cost=20.0),
    ]  # fmt: skip
