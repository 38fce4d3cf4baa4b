from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facezoo.data import DataError, PairList, read_lfw_pairs, read_pairs

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* pairs are "
)  # these lists repeat themselves; see test_data_hostile.py


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")  # pair lists look files up, they do not decode them
    return root


@pytest.fixture
def ver_data(tmp_path: Path) -> Path:
    return touch(tmp_path / "ver_data", "a.jpg", "b.jpg", "sub/c.JPG")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_read_pairs(tmp_path: Path, ver_data: Path, newline: str, bom: bytes) -> None:
    file = tmp_path / "val_pairs.txt"
    file.write_bytes(bom + newline.join(["b.jpg a.jpg 1", "a.jpg\tsub\\c.JPG 0", "b.jpg ./a.jpg 1", ""]).encode())
    pairs = read_pairs(file, ver_data)
    assert pairs.paths == (ver_data / "b.jpg", ver_data / "a.jpg", ver_data / "sub/c.JPG")
    assert pairs.left.tolist() == [0, 1, 0]
    assert pairs.right.tolist() == [1, 2, 1]
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [True, False, True]
    assert pairs.folds is None
    assert len(pairs) == 3
    assert repr(pairs) == "PairList(3 pairs, 2 genuine, 3 images)"


def test_test_pairs_have_no_labels(tmp_path: Path, ver_data: Path) -> None:
    (tmp_path / "test_pairs.txt").write_text("a.jpg b.jpg\nb.jpg b.jpg\n")
    pairs = read_pairs(tmp_path / "test_pairs.txt", ver_data)
    assert pairs.labels is None
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 1], [1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg b.jpg 1\na.jpg\n", r"line 2: expected 'image image 0\|1'.*got 1 fields: 'a\.jpg'"),
        ("a.jpg b.jpg 1\n\na.jpg b.jpg 1 1\n", "line 3: .*got 4 fields"),
        ("a.jpg b.jpg 1\na.jpg b.jpg\n", "line 2: 2 fields, but 3 in the lines before"),
        ("a.jpg b.jpg\na.jpg b.jpg 0\n", "line 2: 3 fields, but 2"),
        ("a.jpg b.jpg 2\n", "line 1: the label is 1 .* or 0, got '2'"),
        ("a.jpg x.jpg 1\ny.jpg x.jpg 1\n", r"names 2 of 3 images that are not in '.*ver_data': x\.jpg, y\.jpg;"),
        ("", "is empty"),
    ],
)
def test_faulty_pairs(tmp_path: Path, ver_data: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path / "pairs.txt", ver_data)


def test_files_that_do_not_exist(tmp_path: Path, ver_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"list of pairs .*gone\.txt"):
        read_pairs(tmp_path / "gone.txt", ver_data)
    (tmp_path / "pairs.txt").write_text("a.jpg b.jpg 1\n")
    with pytest.raises(FileNotFoundError, match=r"image folder .*gone"):
        read_pairs(tmp_path / "pairs.txt", tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"image folder .*gone"):
        read_lfw_pairs_of(tmp_path, LFW, tmp_path / "gone")


LFW = (
    "2\t2\nAnn\t1\t2\nAnn\t2\t1\nAnn\t1\tBob_Lee\t1\nBob_Lee\t1\tAnn\t2\n"
    "Ann\t1\t1\nBob_Lee\t1\t10\nAnn\t1\tBob_Lee\t10\nAnn\t2\tBob_Lee\t1\n"
)


def read_lfw_pairs_of(tmp_path: Path, text: str, root: Path) -> PairList:
    (tmp_path / "pairs.txt").write_text(text)
    return read_lfw_pairs(tmp_path / "pairs.txt", root)


@pytest.fixture(params=["folders", "flat"])
def lfw(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    names = ["Ann_0001.jpg", "Ann_0002.png", "Bob_Lee_0001.JPG", "Bob_Lee_0010.jpg", "Unused_0001.jpg"]
    folder = "" if request.param == "flat" else "{}/"
    return touch(tmp_path / "lfw", *(folder.format(name[:-9]) + name for name in names))


def test_lfw_folds(tmp_path: Path, lfw: Path) -> None:
    pairs = read_lfw_pairs_of(tmp_path, LFW, lfw)
    assert [path.name for path in pairs.paths] == [
        "Ann_0001.jpg",
        "Ann_0002.png",
        "Bob_Lee_0001.JPG",
        "Bob_Lee_0010.jpg",
    ]
    assert all(path.is_file() for path in pairs.paths)
    assert pairs.left.tolist() == [0, 1, 0, 2, 0, 2, 0, 1]
    assert pairs.right.tolist() == [1, 0, 2, 1, 0, 3, 3, 2]
    assert pairs.labels is not None
    assert pairs.labels.tolist() == [True, True, False, False] * 2
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4


def test_lfw_view_1_has_no_folds(tmp_path: Path, lfw: Path) -> None:
    pairs = read_lfw_pairs_of(tmp_path, "4" + LFW[3:].replace("Ann\t1\tBob_Lee\t1\n", "Ann 1 Bob_Lee 1\n"), lfw)
    assert pairs.folds is None
    assert pairs.labels is not None
    assert int(pairs.labels.sum()) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LFW.replace("2\t2\n", "", 1), r"line 1: expected the header '10 300'.*got 'Ann\\t1\\t2'"),
        (LFW.replace("2\t2\n", "0\t2\n", 1), "line 1: expected the header"),
        (LFW.replace("2\t2\n", "2\t3\n", 1), r"promises 12 pairs, but 8 follow"),
        (LFW.replace("Ann\t2\t1", "Ann\t2\tx"), "line 3: expected 'name number number'"),
        (LFW.replace("Ann\t2\t1", "Ann\t2"), "line 3: expected 'name number number'"),
        (LFW.replace("Ann\t2\t1\n", "Ann\t2\tBob_Lee\t1\n"), "fold 1 has 1 genuine pairs of 4"),
        (LFW.replace("Ann\t2\t1\n", "Ann\t2\t3\n"), r"names 1 of 5 images that are not in .*: Ann/Ann_0003"),
    ],
)
def test_faulty_lfw_pairs(tmp_path: Path, lfw: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_lfw_pairs_of(tmp_path, text, lfw)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"left": torch.tensor([0, 2])}, "left: indices run from 0 to 2 for 2 images"),
        ({"right": torch.tensor([-1, 0])}, "right: indices run from -1"),
        ({"right": torch.tensor([0])}, r"right: expected a torch.int64 tensor of shape \(2,\)"),
        ({"labels": torch.tensor([0, 1])}, r"labels: expected a torch.bool tensor .* got torch.int64 \(2,\)"),
        ({"folds": torch.tensor([0])}, "folds: expected"),
        ({"right": None}, "right: expected .* got NoneType"),
    ],
)
def test_pair_list_checks_itself(values: dict[str, torch.Tensor], message: str) -> None:
    whole = {"left": torch.tensor([0, 1]), "right": torch.tensor([1, 0])}
    with pytest.raises(ValueError, match=message):
        PairList((Path("a"), Path("b")), **{**whole, **values})
