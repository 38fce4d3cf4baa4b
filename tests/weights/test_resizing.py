"""Positions of a ViT for other images and tables of a Swin for other windows, against timm's way to interpolate them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from torch import Tensor

import facezoo
from facezoo.models import FaceNetwork, Preprocessing, get_model_spec
from facezoo.weights import CheckpointError, LoadReport, load_checkpoint, save_file_atomic, save_pretrained
from short_networks import first_blocks

BARE: dict[str, Any] = {"embedding_dim": None, "num_classes": 0}


def shallow(name: str, **options: Any) -> FaceNetwork:
    """The network with one block per stage."""
    return FaceNetwork(first_blocks(get_model_spec(name), 1), **options)


def vit(img_size: int | tuple[int, int]) -> FaceNetwork:
    return shallow("vit_tiny_patch16", img_size=img_size, **BARE)


def timms_vit() -> dict[str, Tensor]:
    """Of 64×64 pixels: 4×4 patches and a class token."""
    torch.manual_seed(1)
    network = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=0)
    return {key: torch.randn_like(value) for key, value in network.state_dict().items()}


@pytest.mark.parametrize("size", [(112, 112), (32, 32), (48, 80), (64, 64)], ids=str)
def test_positions_are_those_that_timm_makes(size: tuple[int, int]) -> None:
    theirs, model = timms_vit(), vit(size)
    report = load_checkpoint(model, theirs)
    grid = [size[0] // 16, size[1] // 16]
    expected = resample_abs_pos_embed(theirs["pos_embed"], grid, num_prefix_tokens=1)[0]
    torch.testing.assert_close(model.stem.positions, expected[1:], rtol=1e-6, atol=1e-6)
    assert torch.equal(model.stages[0].tokens.class_position, theirs["pos_embed"][0, 0])
    if size == (64, 64):
        assert torch.equal(model.stem.positions, theirs["pos_embed"][0, 1:])
        assert report.resized == ()
    else:
        assert report.resized == (f"position embedding resized 4×4 → {grid[0]}×{grid[1]}",)
        assert str(report).endswith(f"; position embedding resized 4×4 → {grid[0]}×{grid[1]}")
    assert report.loaded == len(model.state_dict())
    assert model(torch.randn(1, 3, *size)).isfinite().all()


def test_grids_that_are_no_square_need_the_size_of_the_images() -> None:
    source, target = vit((32, 96)), vit(64)
    positions = source.stem.positions.detach()
    with pytest.raises(CheckpointError, match=r"stem: \(12, 192\) in .*Pass img_size=.*its 12 positions resized"):
        load_checkpoint(target, source.state_dict())
    report = load_checkpoint(target, source.state_dict(), img_size=(32, 96))
    assert report.resized == ("position embedding resized 2×6 → 4×4",)
    expected = resample_abs_pos_embed(positions[None], [4, 4], old_size=[2, 6], num_prefix_tokens=0)[0]
    torch.testing.assert_close(target.stem.positions, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(source.stem.positions, positions)
    wide = vit((32, 128))  # as many positions as the network has, on another grid
    assert load_checkpoint(target, wide.state_dict()).resized == ()
    assert load_checkpoint(target, wide.state_dict(), img_size=(32, 128)).resized == (
        "position embedding resized 2×8 → 4×4",
    )
    with pytest.raises(CheckpointError, match=r"images of 96×96 pixels have 6×6 patches of 16×16.*has 16 positions"):
        load_checkpoint(target, wide.state_dict(), img_size=96)


@pytest.mark.parametrize("size", [0, (64,), (64, 64, 64), "64", (64, -1)])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(ValueError, match="img_size is the side of the images"):
        load_checkpoint(vit(64), timms_vit(), img_size=size)


def test_a_replaced_stem_keeps_its_own_positions() -> None:
    source, target = vit(64), shallow("vit_tiny_patch16", img_size=96, in_chans=1, **BARE)
    own = target.stem.positions.detach().clone()
    report = load_checkpoint(target, source.state_dict(), replace=("stem",))
    assert (report.replaced, report.resized) == (("stem",), ())
    assert torch.equal(target.stem.positions, own)


def test_a_trainers_checkpoint_says_its_size_and_the_network_keeps_its_own(tmp_path: Path) -> None:
    source, target = vit((32, 96)), vit(64)
    stored = Preprocessing((32, 96), (0.1, 0.2, 0.3), channel_order="bgr")
    record = {"model": {"name": "vit_tiny_patch16"}, "preprocessing": stored.to_dict()}
    tensors = {f"model.{key}": value for key, value in source.state_dict().items()}
    save_file_atomic(tmp_path / "a.safetensors", tensors, {"network": json.dumps(record)})
    report = load_checkpoint(target, tmp_path / "a.safetensors")
    assert report.resized == ("position embedding resized 2×6 → 4×4",)
    assert report.preprocessing
    assert target.preprocessing == dataclasses.replace(stored, img_size=(64, 64))


def test_a_published_vit_for_other_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = facezoo.create_model("vit_tiny_patch16", img_size=(32, 96))
    save_pretrained(source, tmp_path, card=False)
    model = facezoo.create_model(f"local-dir:{tmp_path}", img_size=64)
    old = source.stem.positions.detach()[None]
    expected = resample_abs_pos_embed(old, [4, 4], old_size=[2, 6], num_prefix_tokens=0)[0]
    torch.testing.assert_close(model.stem.positions, expected, rtol=1e-6, atol=1e-6)
    assert model.preprocessing.img_size == (64, 64)


@pytest.mark.parametrize(
    ("name", "size", "part", "resized"),
    [
        ("vit_t", 126, "hidden", ("position embedding resized 12×12 → 14×14",)),
        ("mobilefacenet", 128, "pool", ()),
        ("iresnet18", 128, "embedding", ()),
    ],
)
def test_layers_with_a_weight_per_position_start_anew(
    name: str, size: int, part: str, resized: tuple[str, ...]
) -> None:
    source, target = shallow(name), shallow(name, img_size=size)
    with pytest.raises(CheckpointError, match=rf'{part}: \(.*All of it fits create_model\("{name}"'):
        load_checkpoint(target, source.state_dict())
    report = load_checkpoint(target, source.state_dict(), replace=(part,))
    assert report == LoadReport("facezoo.native", report.loaded, (part,), report.dropped, False, resized)
    assert target.eval()(torch.randn(1, 3, size, size)).shape == (1, 512)


def test_tables_of_swin_for_other_windows() -> None:
    target = shallow("swin_tiny", **BARE)
    theirs = {key: torch.randn_like(value) for key, value in target.state_dict().items()}
    tables = [key for key in theirs if key.endswith("bias_table")]
    for key in tables:
        theirs[key] = torch.randn(23 * 23, theirs[key].shape[1])  # windows of 12×12
    report = load_checkpoint(target, theirs)
    assert report.resized == ("4 tables of relative positions resized 23×23 → 13×13",)
    for key in tables:
        own = target.state_dict()[key]
        torch.testing.assert_close(own, resize_rel_pos_bias_table_simple(theirs[key], (7, 7), own.shape))
    theirs[tables[0]] = torch.randn(23 * 22, theirs[tables[0]].shape[1])
    with pytest.raises(CheckpointError, match=r"bias_table \(506, 3\) instead of \(169, 3\)"):
        load_checkpoint(target, theirs)
