"""Files that lie, are damaged or hold what is no weight: one error, which names the file, and a network that is as it was."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import facezoo
from facezoo.training import load_trained
from facezoo.weights import CheckpointError, load_checkpoint, read_checkpoint, save_file_atomic, save_pretrained

NAME = "mobilenet_v2_035"
SMALL: dict[str, Any] = {"embedding_dim": 8, "img_size": 32}
KEY = "stages.2.blocks.0.project.conv.weight"


def network(seed: int = 0, **arguments: Any) -> Any:
    torch.manual_seed(seed)
    return facezoo.create_model(NAME, **{**SMALL, **arguments})


@pytest.fixture(scope="module")
def target() -> Any:
    return network(1)


@pytest.fixture(scope="module")
def own() -> dict[str, Tensor]:
    return dict(network(2).state_dict())


def changed_by(value: Tensor, kind: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop its quantized tensors
        value = value.clone()
        if kind == "nan":
            value[0] = float("nan")
        elif kind == "infinite":
            value.view(-1)[-1] = float("inf")
        elif kind == "beyond float32":
            value = value.double()
            value[0] = 1e300
        return {
            "sparse": lambda: value.to_sparse(),
            "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            "meta": lambda: value.to("meta"),
            "int8": lambda: value.to(torch.int8),
            "bool": lambda: value.bool(),
            "complex": lambda: value.to(torch.complex64),
            "float8": lambda: value.to(torch.float8_e4m3fn),
        }.get(kind, lambda: value)()


KINDS = {
    "sparse": "not dense",
    "quantized": "quantized",
    "meta": "without data",
    "int8": "type int8",
    "bool": "type bool",
    "complex": "type complex64",
    "float8": "type float8_e4m3fn",
    "nan": "NaN or infinity",
    "infinite": "NaN or infinity",
    "beyond float32": "beyond the range of float32",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("from_file", [False, True])
def test_all_or_nothing(tmp_path: Path, target: Any, own: dict[str, Tensor], kind: str, from_file: bool) -> None:
    content: Any = {**own, KEY: changed_by(own[KEY], kind)}
    before = {key: value.clone() for key, value in target.state_dict().items()}
    name = "the state dict"
    if from_file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"net": content}, tmp_path / "a.pth")
        content, name = tmp_path / "a.pth", str(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=KINDS[kind]) as caught:
        load_checkpoint(target, content)
    message = str(caught.value)
    assert KEY in message
    assert name in message
    assert "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_half_precision_and_small_float64_are_weights(own: dict[str, Tensor]) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model = network(3)
        load_checkpoint(model, {**own, KEY: own[KEY].to(dtype)})
        assert torch.equal(model.state_dict()[KEY], own[KEY].to(dtype).float())


def test_what_half_precision_cannot_hold(own: dict[str, Tensor]) -> None:
    model = network(3).half()
    with pytest.raises(CheckpointError, match="beyond the range of float16"):
        load_checkpoint(model, {**own, KEY: torch.full_like(own[KEY], 1e6)})


def test_negative_variances_and_counters_that_do_not_count(own: dict[str, Tensor]) -> None:
    variance, counter = "stem.conv.norm.running_var", "stem.conv.norm.num_batches_tracked"
    with pytest.raises(CheckpointError, match="negative variances"):
        load_checkpoint(network(), {**own, variance: own[variance] - 5})
    for value in (torch.tensor(float("nan")), torch.tensor(1j)):
        with pytest.raises(CheckpointError, match="is not a count"):
            load_checkpoint(network(), {**own, counter: value})
    load_checkpoint(network(), {**own, counter: torch.tensor(3.0)})  # an average of counters


def test_a_replaced_part_may_hold_anything(own: dict[str, Tensor]) -> None:
    model = network(3, num_classes=4)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))  # the network's own: not the file's fault
    load_checkpoint(model, own, replace=("classifier",))


# --- quantized layers


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3, bias=False)


def test_dynamically_quantized_layers_become_numbers(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear}, dtype=torch.qint8)
        torch.save(quantized.state_dict(), tmp_path / "q.pt")
        expected = {name: getattr(quantized, name).weight().dequantize() for name in ("first", "second")}
        tensors, _ = read_checkpoint(tmp_path / "q.pt")
    assert tensors.keys() == {"first.weight", "first.bias", "second.weight"}
    assert all(torch.equal(tensors[f"{name}.weight"], value) for name, value in expected.items())


def test_a_packed_layer_of_another_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="first is a packed layer of another kind"):
        load_checkpoint(network(), {"first._packed_params._packed_params": (torch.zeros(2, 2), None)})


# --- files of other kinds


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"\x93NUMPY\x01\x00" + bytes(70), "one NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(70), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(70), "unpack it first"),
        (b"GGUF" + bytes(70), "GGUF"),
        (b'{"format": "facezoo"}' + bytes(70), "JSON, not the weights"),
        (b"\x08\x09\x12\x07pytorch" + bytes(70), "ONNX"),
    ],
)
def test_other_programs_files_are_named(tmp_path: Path, content: bytes, advice: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=advice) as caught:
        load_checkpoint(network(), tmp_path / "a.bin")
    assert str(tmp_path / "a.bin") in str(caught.value)


def test_npz_and_scripted_files_say_what_to_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"NumPy arrays \(\.npz\).*save_file"):
        load_checkpoint(network(), tmp_path / "a.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript.*torch\.jit\.load") as caught:
        load_checkpoint(network(), tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(caught.value)


def test_a_pytorch_file_where_a_checkpoint_of_training_is_wanted(tmp_path: Path, own: dict[str, Tensor]) -> None:
    torch.save(own, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="--model"):
        load_trained(tmp_path / "a.pt")


def damaged(path: Path, content: bytes, tries: int, seed: int) -> list[str]:
    """The classes of error that flipped, cut and repeated bytes bring about."""
    drawn, seen = random.Random(seed), []
    for _ in range(tries):
        data = bytearray(content)
        for _ in range(drawn.randint(1, 4)):
            place = drawn.randrange(len(data))
            data[place] = drawn.randrange(256)
        if drawn.random() < 0.3:
            del data[drawn.randrange(len(data)) :]
        path.write_bytes(bytes(data))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_checkpoint(path)
        except Exception as error:
            text = str(error)
            told = isinstance(error, CheckpointError) and str(path) in text and "\n" not in text and len(text) < 900
            seen += [] if told else [repr(error)]
    return seen


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_damaged_files_have_one_kind_of_error(tmp_path: Path, kind: str) -> None:
    tensors = {"a.weight": torch.randn(3, 2), "a.bias": torch.zeros(3), "n": torch.tensor(1)}
    path = tmp_path / "a.pth"
    if kind == "safetensors":
        save_file_atomic(path, tensors, {"format": "pt"})
    else:
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=kind == "zip")
    assert damaged(path, path.read_bytes(), 150, seed=7) == []


def test_a_small_file_that_speaks_of_a_huge_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(70000), "seed": 2**31 - 1}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<i", 70000), struct.pack("<i", 2**31 - 2), 1))
    with pytest.raises(CheckpointError, match="a tensor of 2147483646 numbers"):
        read_checkpoint(path)
    path.write_bytes(content)  # a big number beside is nothing to complain of
    with pytest.raises(CheckpointError, match="'seed' is a int"):
        read_checkpoint(path)


def test_long_names_do_not_fill_the_screen(own: dict[str, Tensor]) -> None:
    for content in (
        {**own, "x" * 10**5: torch.zeros(1)},
        {"x" * 10**5: torch.zeros(1)},
        {**own, "x" * 10**5: "text"},
    ):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(network(), content)
        assert len(str(caught.value)) < 2500
        assert "x" * 201 not in str(caught.value)


# --- headers that redirect, and sizes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as training writes it, small."""
    path = tmp_path_factory.mktemp("trained") / "best.safetensors"
    model = network(5)
    head = facezoo.create_margin("cosface", embedding_dim=8, num_classes=3)
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"head.{key}": value for key, value in head.state_dict().items()}
    description = {
        "model": model.config,
        "head": {"name": "cosface", "options": {"embedding_dim": 8, "num_classes": 3}},
        "preprocessing": model.preprocessing.to_dict(),
        "classes": ["a", "b", "c"],
        "metrics": {"eer": 0.5},
    }
    save_file_atomic(path, tensors, {"format": "facezoo-training-1", "network": json.dumps(description)})
    return path


def with_header(trained: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    data = trained.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header["__metadata__"]["network"])
    result = change(description)
    header["__metadata__"]["network"] = result if isinstance(result, str) else json.dumps(description)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


def test_the_checkpoint_itself_is_read(trained: Path) -> None:
    assert load_trained(trained).head.num_classes == 3


REDIRECTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "hub": lambda d: d["model"].update(name="hf-hub:owner/x"),
    "folder": lambda d: d["model"].update(name="local-dir:/tmp"),
    "another": lambda d: d["model"].update(name="no_such_network"),
    "no text": lambda d: d["model"].update(name=3),
    "file": lambda d: d["model"].update(checkpoint_path="/etc/passwd"),
    "tag": lambda d: d["model"].update(pretrained="x"),
    "features": lambda d: d["model"].update(features_only=True),
    "no model": lambda d: d.update(model=None),
    "many": lambda d: d["model"].update(embedding_dim=10**9),
    "more than counts": lambda d: d["model"].update(embedding_dim=10**30),
    "classes": lambda d: d["model"].update(num_classes=3 * 10**7),
    "channels": lambda d: d["model"].update(in_chans=10**9),
    "text": lambda d: d["model"].update(embedding_dim="8"),
    "head classes": lambda d: d["head"]["options"].update(num_classes=3 * 10**7),
    "head width": lambda d: d["head"]["options"].update(embedding_dim=10**30),
    "head option": lambda d: d["head"]["options"].update(process_group=7),
    "head name": lambda d: d["head"].update(name="hf-hub:owner/x"),
    "head": lambda d: d.update(head=["cosface"]),
    "mean": lambda d: d["preprocessing"].update(mean="abc"),
    "size": lambda d: d["preprocessing"].update(img_size=[10**9, 10**9]),
    "metrics": lambda d: d.update(metrics={"eer": []}),
    "class names": lambda d: d.update(classes=[1, 2, 3]),
    "missing": lambda d: d.pop("classes"),
    "deep": lambda _: "[" * 10**5,
    "no json": lambda _: "{",
    "a list": lambda _: "[]",
}


@pytest.mark.parametrize("kind", REDIRECTIONS)
def test_nothing_in_a_header_decides_what_else_is_opened_or_how_much(
    trained: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a file made facezoo open another one")

    for target in ("facezoo.weights.pretrained.download", "facezoo.models.factory.load_checkpoint"):
        monkeypatch.setattr(target, refuse)
    path = with_header(trained, tmp_path / "best.safetensors", REDIRECTIONS[kind])
    with pytest.raises(CheckpointError) as caught:
        load_trained(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_a_width_that_is_not_the_files_is_told_before_anything_is_built(trained: Path, tmp_path: Path) -> None:
    path = with_header(trained, tmp_path / "best.safetensors", lambda d: d["model"].update(embedding_dim=9))
    with pytest.raises(CheckpointError, match=r"does not fit its own description: head\.embedding"):
        load_trained(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net"
    head = facezoo.create_margin("cosface", embedding_dim=8, num_classes=3)
    save_pretrained(network(5), path, head=head, card=False)
    return path


CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "many": lambda c: c["model"].update(embedding_dim=10**9),
    "classes": lambda c: c["model"].update(num_classes=3 * 10**7),
    "channels": lambda c: c["model"].update(in_chans=10**30),
    "hub": lambda c: c["model"].update(name="hf-hub:owner/x"),
    "no text": lambda c: c["model"].update(name=[]),
    "sha": lambda c: c.update(sha256=7),
    "license": lambda c: c.update(license=7),
    "figures": lambda c: c.update(figures=[{"benchmark": "LFW"}]),
    "figure": lambda c: c.update(figures=7),
    "margin": lambda c: c.update(margin={"nome": "cosface"}),
    "margin classes": lambda c: c["margin"]["options"].update(num_classes=10**9),
    "margin options": lambda c: c["margin"].update(options=3),
    "size": lambda c: c["preprocessing"].update(img_size=[1e308, 1]),
    "version": lambda c: c.update(format_version=10**4000),
    "true": lambda c: c.update(format_version=True),
    "deep": lambda _: "[" * 10**5,
    "digits": lambda _: "1" * 10**5,
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_damaged_config_has_one_kind_of_error(folder: Path, tmp_path: Path, kind: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    with warnings.catch_warnings():
        result = CONFIGS[kind](values)
    try:
        text = result if isinstance(result, str) else json.dumps(values)
    except ValueError:  # Python writes no integer of thousands of digits
        text = json.dumps({**values, "format_version": 7})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_trained(f"local-dir:{tmp_path}")
    assert "config.json" in str(caught.value) or str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900


def test_a_fused_network_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not the mobilenet_v2_035 of its record.*facezoo\.export"):
        save_pretrained(facezoo.fuse(network().eval()), tmp_path / "net", card=False)
    assert not (tmp_path / "net" / "config.json").exists()
    model = network()
    model.head.embedding = nn.Linear(model.head.embedding.in_features, 9)  # taken apart
    with pytest.raises(ValueError, match=r"first of them head\.embedding"):
        save_pretrained(model, tmp_path / "net", card=False)


def test_the_report_says_what_was_dequantized() -> None:
    report = facezoo.weights.LoadReport("edgeface.edgeface", 9, dequantized=3)
    assert "3 linear layers of 8-bit integers became float32" in str(report)
    assert "8-bit" not in str(dataclasses.replace(report, dequantized=0))


def test_a_refused_sparse_tensor_does_not_spoil_the_next_file(tmp_path: Path) -> None:
    """torch keeps the sparse tensors of a file that it gives up, checks them with the next file, and blames that one."""
    import argparse

    wrong = torch.sparse_coo_tensor(torch.tensor([[99]]), torch.ones(1), (3,), check_invariants=False)
    torch.save({"a": wrong, "args": argparse.Namespace(lr=0.1)}, tmp_path / "bad.pth")
    torch.save({"b": torch.ones(2)}, tmp_path / "good.pth")
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace"):
        read_checkpoint(tmp_path / "bad.pth")
    assert read_checkpoint(tmp_path / "good.pth")[0]["b"].tolist() == [1.0, 1.0]


def test_a_long_format_does_not_fill_the_screen(trained: Path, tmp_path: Path) -> None:
    data = trained.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["format"] = "a" * 5000
    text = json.dumps(header).encode()
    path = tmp_path / "other.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(CheckpointError, match="not a checkpoint of `facezoo train`") as caught:
        load_trained(path)
    assert "a" * 201 not in str(caught.value)
