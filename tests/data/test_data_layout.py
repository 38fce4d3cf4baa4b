from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.data import DataError, FaceData, ImageList, identity_overlap, open_face_data


def write_images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(root / name)


def add_pairs(root: Path) -> None:
    write_images(root / "ver_data", "v1_0001.jpg", "v1_0002.jpg", "v2_0001.jpg")
    (root / "val_pairs.txt").write_text("v1_0001.jpg v2_0001.jpg 0\nv1_0001.jpg v1_0002.jpg 1\n")
    (root / "test_pairs.txt").write_text("v2_0001.jpg v1_0001.jpg\n")


def fall_2024(root: Path, base: str = "cls_data/") -> None:
    for split in ("train", "dev", "test"):
        write_images(root, *(f"{base}{split}/{person}/{number}.jpg" for person in ("n1", "n2") for number in range(2)))


def spring_2025(root: Path, base: str = "cls_data/") -> None:
    for split in ("train", "dev", "test"):
        write_images(root, *(f"{base}{split}/images/{split}{number}.jpg" for number in range(3)))
        (root / base / split / "labels.txt").write_text(
            "".join(f"{split}{number}.jpg {number}\n" for number in (2, 0, 1))
        )


def mark_train(image: object) -> str:
    return "train"


def mark_eval(image: object) -> str:
    return "eval"


def opened(root: Path) -> FaceData:
    return open_face_data(root, mark_train, mark_eval)


def test_fall_2024(tmp_path: Path) -> None:
    fall_2024(tmp_path)
    add_pairs(tmp_path)
    data = opened(tmp_path)
    assert data.dev is not None
    assert data.test is not None
    assert data.val_pairs is not None
    assert data.test_pairs is not None
    assert data.classes == data.dev.classes == ("n1", "n2")
    assert (len(data.train), len(data.dev), len(data.test)) == (4, 4, 4)
    assert (data.train[0], data.dev[0], data.test[3]) == (("train", 0), ("eval", 0), ("eval", 1))
    assert data.val_pairs.labels is not None
    assert data.val_pairs.labels.tolist() == [False, True]
    assert data.test_pairs.labels is None
    assert data.layout == "HW2P2, one folder per identity"
    assert "train       4 images of 2 identities" in data.describe()
    assert "val pairs   2 pairs (1 genuine) of 3 images" in data.describe()


def test_dev_shares_the_class_indices_of_train(tmp_path: Path) -> None:
    fall_2024(tmp_path)
    shutil.rmtree(tmp_path / "cls_data/dev/n1")
    data = opened(tmp_path)
    assert data.dev is not None
    assert data.dev.labels.tolist() == [1, 1]
    write_images(tmp_path, "cls_data/dev/stranger/0.jpg")
    with pytest.raises(DataError, match=r"dev' holds 1 folders that are none of the 2 known classes: stranger"):
        opened(tmp_path)


def test_spring_2025(tmp_path: Path) -> None:
    spring_2025(tmp_path)
    data = opened(tmp_path)
    assert data.dev is not None
    assert data.test is not None
    assert data.classes == ("0", "1", "2")
    assert data.train.names == ("train2.jpg", "train0.jpg", "train1.jpg")
    assert data.train.labels.tolist() == [2, 0, 1]
    assert data.train[0] == ("train", 2)
    assert data.dev[0] == ("eval", 2)
    assert data.test[0] == ("eval", 2)
    assert data.layout == "HW2P2, images and labels.txt"


def test_spring_2025_label_outside_the_training_classes(tmp_path: Path) -> None:
    spring_2025(tmp_path)
    (tmp_path / "cls_data/dev/labels.txt").write_text("dev0.jpg 0\ndev1.jpg 3\n")
    with pytest.raises(
        DataError, match=r"dev/labels\.txt', line 2: label '3' is none of the 3 known classes \(0 … 2\)"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("form", ["list in its own order", "no list", "flat"])
def test_unlabeled_test_split(tmp_path: Path, form: str) -> None:
    spring_2025(tmp_path)
    folder = tmp_path / "cls_data/test"
    order = ["test0.jpg", "test1.jpg", "test2.jpg"]
    if form == "list in its own order":
        order = ["test1.jpg", "test2.jpg", "test0.jpg"]
        (folder / "labels.txt").write_text("\n".join(order))
    else:
        (folder / "labels.txt").unlink()
    if form == "flat":
        for path in (folder / "images").iterdir():
            path.rename(folder / path.name)
        (folder / "images").rmdir()
    test = opened(tmp_path).test
    assert isinstance(test, ImageList)
    assert [path.name for path in test.paths] == order
    assert test[0] == "eval"
    assert "3 images without labels" in opened(tmp_path).describe()


def test_unlabeled_list_that_names_a_missing_image(tmp_path: Path) -> None:
    spring_2025(tmp_path)
    (tmp_path / "cls_data/test/labels.txt").write_text("test1.jpg\ntest9.jpg\n")
    with pytest.raises(DataError, match=r"names 1 of 2 images.*test9\.jpg"):
        opened(tmp_path)


@pytest.mark.parametrize("dev_name", ["dev", "val", "validation"])
@pytest.mark.parametrize("make", [fall_2024, spring_2025])
def test_splits_without_cls_data(tmp_path: Path, dev_name: str, make: object) -> None:
    make(tmp_path, base="")  # type: ignore[operator]
    (tmp_path / "dev").rename(tmp_path / dev_name)
    data = opened(tmp_path)
    assert data.dev is not None
    assert data.dev[0][0] == "eval"
    assert len(data.train) > 0
    assert data.layout.startswith("one folder per split")


def test_two_dev_folders(tmp_path: Path) -> None:
    fall_2024(tmp_path)
    shutil.copytree(tmp_path / "cls_data/dev", tmp_path / "cls_data/val")
    with pytest.raises(DataError, match="dev and val: which is the dev split"):
        opened(tmp_path)


def plain(root: Path, counts: dict[str, int]) -> None:
    write_images(root, *(f"{person}/{number:03d}.jpg" for person, count in counts.items() for number in range(count)))


def test_plain_folder_is_split_per_class(tmp_path: Path) -> None:
    plain(tmp_path, {"a": 20, "b": 30, "c": 1, "d": 2})
    data = open_face_data(tmp_path, mark_train, mark_eval, dev_fraction=0.1)
    assert data.dev is not None
    assert set(data.train.names) | set(data.dev.names) == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")
    }
    assert not set(data.train.names) & set(data.dev.names)
    counts = [sum(name.startswith(f"{person}/") for name in data.dev.names) for person in "abcd"]
    assert counts[0] in (2, 3)
    assert counts[1] in (3, 4)
    assert counts[2] == 0
    assert data.train[0] == ("train", 0)
    assert data.dev[0] == ("eval", 0)
    assert data.test is None
    assert data.val_pairs is None


def test_plain_split_depends_on_names_and_seed_only(tmp_path: Path) -> None:
    plain(tmp_path, {"b": 20, "c": 20})
    first, again = opened(tmp_path), opened(tmp_path)
    other = open_face_data(tmp_path, seed=1)
    plain(tmp_path, {"a": 20})
    more = opened(tmp_path)
    assert first.dev is not None
    assert again.dev is not None
    assert other.dev is not None
    assert more.dev is not None
    assert first.dev.names == again.dev.names
    assert [name for name in more.dev.names if not name.startswith("a/")] == list(first.dev.names)
    assert first.dev.names != other.dev.names
    # This very choice: another one would change the dev set of everyone's runs.
    assert first.dev.names == PINNED_SPLIT


PINNED_SPLIT = ("b/010.jpg", "b/017.jpg", "c/005.jpg", "c/011.jpg")


def test_an_identity_never_loses_its_last_training_image(tmp_path: Path) -> None:
    plain(tmp_path, {f"p{number}": number % 2 + 1 for number in range(10)})
    data = open_face_data(tmp_path, dev_fraction=0.99)
    assert data.train.labels.tolist() == list(range(10))
    assert data.dev is not None
    assert data.dev.labels.tolist() == [1, 3, 5, 7, 9]


def test_rounding_keeps_the_overall_share(tmp_path: Path) -> None:
    plain(tmp_path, {f"p{number:03d}": 4 for number in range(150)})
    dev = opened(tmp_path).dev
    assert dev is not None
    assert 40 <= len(dev) <= 80  # 60 expected; rounding each identity by itself would give none


def test_no_dev_wanted(tmp_path: Path) -> None:
    plain(tmp_path, {"a": 20})
    data = open_face_data(tmp_path, dev_fraction=0)
    assert data.dev is None
    assert len(data.train) == 20
    with pytest.raises(ValueError, match="dev_fraction: expected 0 <= dev_fraction < 1, got 1"):
        open_face_data(tmp_path, dev_fraction=1)


def test_splits_without_dev_hold_some_out(tmp_path: Path) -> None:
    plain(tmp_path / "cls_data" / "train", {"a": 20, "b": 20})
    data = opened(tmp_path)
    assert data.dev is not None
    assert len(data.train) + len(data.dev) == 40
    assert f"{len(data.dev)} training images held out" in data.layout


def test_images_and_labels_without_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "images", *(f"{number}.jpg" for number in range(40)))
    (tmp_path / "labels.txt").write_text("".join(f"{number}.jpg {number % 2}\n" for number in range(40)))
    data = opened(tmp_path)
    assert data.classes == ("0", "1")
    assert data.dev is not None
    assert len(data.train) + len(data.dev) == 40


def test_plain_folder_beside_ver_data(tmp_path: Path) -> None:
    plain(tmp_path, {"a": 3})
    add_pairs(tmp_path)
    with pytest.raises(DataError, match="beside ver_data, which would become an identity too"):
        opened(tmp_path)


def test_unknown_layouts_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Looked for: cls_data/train/ .*The folder holds: nothing"):
        opened(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    fall_2024(tmp_path / "unzipped")
    with pytest.raises(DataError, match=r"holds: notes\.txt, unzipped/\. Did you mean '.*/unzipped'\?"):
        opened(tmp_path)
    shutil.rmtree(tmp_path / "unzipped/cls_data/train")
    with pytest.raises(DataError, match=r"There is cls_data/, but no cls_data/train/; cls_data/ holds: dev/, test/"):
        opened(tmp_path / "unzipped")
    with pytest.raises(FileNotFoundError, match=r"data folder .*gone"):
        opened(tmp_path / "gone")


@pytest.mark.parametrize(
    ("place", "file", "kind"),
    [
        ("list.csv", "list.csv", "a list .csv, .tsv or .txt"),
        ("0000.tar", "0000.tar", "WebDataset's tar shards"),
        ("shards", "shards/0000.tar", "WebDataset's tar shards"),
        ("train.rec", "train.rec", "insightface's train.rec"),
        ("ms1m", "ms1m/train.rec", "insightface's train.rec"),
        ("db", "db/data.mdb", "an LMDB"),
        ("faces.parquet", "faces.parquet", "parquet files"),
    ],
)
def test_a_source_that_is_no_folder_is_to_be_packed_first(tmp_path: Path, place: str, file: str, kind: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises((FileNotFoundError, DataError)) as caught:
        opened(tmp_path / place)
    assert f"; it is {kind}" in str(caught.value)
    assert f": pack it first: facezoo pack {(tmp_path / place).as_posix()} --out PACKED" in str(caught.value)


def test_packing_is_not_told_where_it_does_not_help(tmp_path: Path) -> None:
    (tmp_path / "lfw.bin").write_bytes(b"\x80\x04]")  # pairs, without labels to train on
    write_images(tmp_path / "cls_data", "dev/a.jpg")
    for place in ("lfw.bin", "gone", "gone.csv", "."):
        with pytest.raises((FileNotFoundError, DataError)) as caught:
            opened(tmp_path / place)
        assert "pack" not in str(caught.value).replace(str(tmp_path), "")
    with pytest.raises(FileNotFoundError, match="facezoo pack hf-hub:a/b --out PACKED"):
        opened(Path("hf-hub:a/b"))


def test_images_folder_without_labels(tmp_path: Path) -> None:
    spring_2025(tmp_path)
    (tmp_path / "cls_data/train/labels.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train' holds images/ but no labels\.txt"):
        opened(tmp_path)


def test_pairs_without_ver_data(tmp_path: Path) -> None:
    fall_2024(tmp_path)
    add_pairs(tmp_path)
    shutil.rmtree(tmp_path / "ver_data")
    with pytest.raises(FileNotFoundError, match=r"ver_data' \(for '.*val_pairs\.txt'\) does not exist"):
        opened(tmp_path)


def test_overlap_warns(tmp_path: Path) -> None:
    write_images(tmp_path, "train/v1/a.jpg", "train/other/a.jpg")
    add_pairs(tmp_path)
    with (
        pytest.warns(UserWarning, match=r"1 identities of test_pairs\.txt are also in the training set \(v1\)"),
        pytest.warns(UserWarning, match=r"1 identities of val_pairs\.txt"),
    ):
        opened(tmp_path)


def test_identity_overlap() -> None:
    classes = ("Aaron_Eckhart", "n000123", "7", "Zoe")
    assert identity_overlap(classes, ["lfw/aaron_eckhart/x.jpg", "ver/n000123_0001_02.jpg"]) == (
        "Aaron_Eckhart",
        "n000123",
    )
    assert identity_overlap(classes, ["ver/Zoe_0001.jpg", "ver/n000123_0001.jpg"]) == ("Zoe", "n000123")
    assert identity_overlap(classes, ["ver/7_0001.jpg", "7/x.jpg", "ver/Zoe.jpg", "ver/Zoey_0001.jpg"]) == ()
