from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionImageFolder

from facezoo.data import DataError, ImageDecodeError, ImageFolder, ImageList, LabeledFiles, LabeledImages


def write_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "train"
    for number, name in enumerate(["n10/b.png", "n10/a.PNG", "n2/x.png", "n2/sub/y.bmp", "Zoe/z.png"]):
        write_image(root / name, number)
    for junk in ["n2/Thumbs.db", "n2/._x.png", ".ipynb_checkpoints/n.txt", "readme.txt", "__MACOSX/n2/x.png"]:
        (root / junk).parent.mkdir(parents=True, exist_ok=True)
        (root / junk).write_text("junk")
    return root


def test_image_folder(folder: Path) -> None:
    data = ImageFolder(folder)
    assert data.classes == ("Zoe", "n10", "n2")
    assert [(path.relative_to(folder).as_posix(), label) for path, label in data.samples] == [
        ("Zoe/z.png", 0),
        ("n10/a.PNG", 1),
        ("n10/b.png", 1),
        ("n2/sub/y.bmp", 2),
        ("n2/x.png", 2),
    ]
    assert torch.equal(data.labels, torch.tensor([0, 1, 1, 2, 2]))
    assert [int(np.asarray(data[i][0])[0, 0, 0]) for i in range(len(data))] == [4, 1, 0, 3, 2]
    assert [data[i][1] for i in range(len(data))] == [0, 1, 1, 2, 2]


def test_image_folder_numbers_as_torchvision_does(tmp_path: Path) -> None:
    for name in ["b/2.png", "b/10.png", "a/1.png", "B/1.png", "é/1.png"]:
        write_image(tmp_path / name)
    peer = TorchvisionImageFolder(str(tmp_path))
    data = ImageFolder(tmp_path)
    assert list(data.classes) == peer.classes
    assert [(str(path), label) for path, label in data.samples] == peer.samples


def test_transform_and_pickle(folder: Path) -> None:
    data: ImageFolder = pickle.loads(pickle.dumps(ImageFolder(folder, transform=np.asarray)))
    image, label = data[1]
    assert isinstance(image, np.ndarray)
    assert label == 1


def test_linked_class_folder(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    try:
        os.symlink(folder / "n10", linked / "someone")
    except OSError:
        pytest.skip("no symbolic links here")
    assert len(ImageFolder(linked)) == 2


def test_given_classes(folder: Path) -> None:
    data = ImageFolder(folder, classes=("Zoe", "absent", "n2", "n10"))
    assert data.labels.tolist() == [0, 3, 3, 2, 2]
    with pytest.raises(DataError, match=r"1 folders that are none of the 2 known classes: Zoe;"):
        ImageFolder(folder, classes=("n2", "n10"))


def test_empty_class_folders_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "only_text").mkdir()
    (folder / "only_text" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"2 of 5 class folders in '.*train' hold no image: empty, only_text; .*\.jpg"):
        ImageFolder(folder)


def test_no_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders; expected one folder per identity"):
        ImageFolder(tmp_path)
    write_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="but 1 images directly"):
        ImageFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone.*does not exist"):
        ImageFolder(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"a\.png.*as a folder"):
        ImageFolder(tmp_path / "a.png")


def test_broken_image_names_the_file(folder: Path) -> None:
    content = (folder / "n10" / "b.png").read_bytes()
    (folder / "n10" / "b.png").write_bytes(content[:-20])
    data = ImageFolder(folder)
    assert data[1][1] == 1
    with pytest.raises(ImageDecodeError, match=r"n10/b\.png"):
        data[2]


def test_labeled_files_checks_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image 'b' .* has label 2; with 2 classes labels run from 0 to 1"):
        LabeledFiles(tmp_path, ["a", "b"], [0, 2], ["x", "y"])
    with pytest.raises(DataError, match="label -1"):
        LabeledFiles(tmp_path, ["a"], [-1], ["x", "y"])
    with pytest.raises(DataError, match="1 image names but 2 labels"):
        LabeledFiles(tmp_path, ["a"], [0, 1], ["x", "y"])


def test_subset_keeps_classes(folder: Path) -> None:
    part = ImageFolder(folder).subset([4, 0], transform=np.asarray)
    assert part.names == ("n2/x.png", "Zoe/z.png")
    assert part.classes == ("Zoe", "n10", "n2")
    assert part[0][0][0, 0, 0] == 2
    assert part[0][1] == 2


def labeled(tmp_path: Path, text: str | bytes) -> tuple[Path, Path]:
    for number, name in enumerate(["a.png", "b.png", "c d.png", "deep/e.png"]):
        write_image(tmp_path / "images" / name, number)
    file = tmp_path / "labels.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / "images", file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\n\n  \n"])
def test_labeled_images(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = ["b.png 10", "a.png\t2", "c d.png  2", ".\\deep\\e.png 10", "b.png 10", ""]
    data = LabeledImages(*labeled(tmp_path, newline.join(lines).encode(encoding)))
    assert data.classes == ("2", "10")  # as numbers, not as strings
    assert data.names == ("b.png", "a.png", "c d.png", "deep/e.png", "b.png")
    assert data.labels.tolist() == [1, 0, 0, 1, 1]
    assert int(np.asarray(data[3][0])[0, 0, 0]) == 3


def test_labeled_images_with_names_as_labels(tmp_path: Path) -> None:
    data = LabeledImages(*labeled(tmp_path, "a.png zoe\nb.png anna\n"))
    assert data.classes == ("anna", "zoe")
    assert data.labels.tolist() == [1, 0]


def test_labeled_images_with_known_classes(tmp_path: Path) -> None:
    place = labeled(tmp_path, "a.png 3\n\nb.png 1\n")
    assert LabeledImages(*place, classes=("0", "1", "2", "3")).labels.tolist() == [3, 1]
    with pytest.raises(DataError, match=r"labels\.txt', line 3: label '1' is none of the 2 known classes"):
        LabeledImages(*place, classes=("2", "3"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 0\nb.png\n", r"line 2: expected 'file label', got 'b\.png'"),
        ("a.png 0\n\na.png 1\n", r"line 3: image 'a\.png' has label '1', but '0' on line 1"),
        ("a.png 0\nb.png -1\n", "line 2: label -1 is negative"),
        ("a.png 0\nx.png 0\ny.png 0\n", r"names 2 of 3 images that are not in '.*images': x\.png, y\.png;"),
        ("a.png\nb.png\n", "has no labels"),
        ("\n \n", "is empty"),
        (b"a.png \xff\xfe\n", "is not text"),
    ],
)
def test_faulty_label_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabeledImages(*labeled(tmp_path, text))


def test_many_missing_images_are_counted(tmp_path: Path) -> None:
    text = "".join(f"m{number:03d}.png 0\n" for number in range(40)) + "a.png 0\n"
    with pytest.raises(
        DataError, match=r"names 40 of 41 images.*: m000\.png, m001\.png, m002\.png, m003\.png, m004\.png and 35 more;"
    ):
        LabeledImages(*labeled(tmp_path, text))


def test_label_file_or_folder_missing(tmp_path: Path) -> None:
    images, file = labeled(tmp_path, "a.png 0\n")
    with pytest.raises(FileNotFoundError, match=r"label file .*gone\.txt"):
        LabeledImages(images, tmp_path / "gone.txt")
    with pytest.raises(FileNotFoundError, match=r"image folder .*gone"):
        LabeledImages(tmp_path / "gone", file)


def test_image_list(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 7)
    data = ImageList([tmp_path / "a.png", str(tmp_path / "gone.png"), tmp_path / "a.png"], transform=np.asarray)
    assert len(data) == 3
    assert data.paths[1] == tmp_path / "gone.png"
    assert data[2][0, 0, 0] == 7
    with pytest.raises(ImageDecodeError, match=r"gone\.png"):
        data[1]
