"""Heads whose classes are spread over ranks. One spawn of four gloo ranks runs all of rank_checks.py."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist

from facezoo.margins import create_margin
from facezoo.margins.shard import ClassShard, draw_centers
from rank_checks import CHECKS, RANKS, run_all
from ranks import start_ranks


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """What went wrong, by rank: name of the check -> traceback."""
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(run_all, (str(folder),), RANKS)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", CHECKS)
def test_on_four_ranks(failures, name):
    for rank, found in enumerate(failures):
        assert name not in found, f"rank {rank}: {found[name]}"


# -- without ranks -----------------------------------------------------------------------------------------------------------------


def test_no_group_is_one_process():
    assert not dist.is_initialized()
    head = create_margin("arcface", embedding_dim=4, num_classes=9, process_group=None)
    assert head.shard is None
    assert head.sharded == ()
    assert type(head.state_dict()["weight"]) is torch.Tensor


@pytest.mark.parametrize("group", ["nccl", 4, True])
def test_what_is_no_group(group):
    with pytest.raises(TypeError, match=r"torch\.distributed\.group\.WORLD"):
        create_margin("arcface", embedding_dim=4, num_classes=9, process_group=group)


@pytest.mark.parametrize("classes", [1, 3, 4, 5, 8, 1003])
def test_shards_are_those_of_a_dtensor(classes):
    """torch.chunk's parts, which is where a DTensor with Shard(0) has its rows."""
    parts = [ClassShard(classes, None, rank, 4) for rank in range(4)]
    everything = torch.arange(classes)
    chunks = list(everything.chunk(4))
    chunks += [everything[:0]] * (4 - len(chunks))
    for part, chunk in zip(parts, chunks, strict=True):
        assert everything[part.rows].tolist() == chunk.tolist()
        assert part.count == len(chunk)
        labels = part.local_labels(everything)
        assert everything[labels >= 0].tolist() == chunk.tolist()
        assert labels[labels >= 0].tolist() == list(range(len(chunk)))
        assert part.own(everything).tolist() == chunk.tolist()


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected 9 rows.*or the 3 of this process; got 5"):
        ClassShard(9, None, 1, 4).own(torch.zeros(5, 2))


@pytest.mark.parametrize(("first", "rows"), [(0, 50), (0, 13), (13, 13), (39, 11), (47, 0)])
def test_part_of_a_draw(monkeypatch, first, rows):
    monkeypatch.setattr("facezoo.margins.shard._ROWS_PER_DRAW", 16)
    whole, part = torch.empty(50, 3), torch.empty(rows, 3)
    torch.manual_seed(0)
    draw_centers(whole, std=2.0, num_classes=50)
    torch.manual_seed(0)
    draw_centers(part, std=2.0, num_classes=50, first=first)
    assert torch.equal(part, whole[first : first + rows])
    assert whole.std().item() == pytest.approx(2.0, rel=0.2)
