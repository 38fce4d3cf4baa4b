"""Open a data folder: recognize its layout, and return training, dev and test sets and verification pairs."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from facezoo.data._listing import (
    as_relative,
    check_files,
    holds_photos,
    images_in,
    is_unlabeled,
    read_lines,
    visible_entries,
)
from facezoo.data.errors import DataError, first_few
from facezoo.data.folders import ImageFolder, ImageList, LabeledFiles, LabeledImages, Transform
from facezoo.data.packed import PackedFaces, PackedFolder, PackedImages, is_packed
from facezoo.data.pairs import PairList, read_pairs

_DEV_NAMES = ("dev", "val", "valid", "validation")
_RESERVED = frozenset(("train", "test", "images", "ver_data", "cls_data", *_DEV_NAMES))


@dataclass(frozen=True, eq=False)
class FaceData:
    """The parts of one data folder.

    Attributes:
        root: the folder.
        layout: name of the layout, for display.
        train: training images, with the training transform.
        dev: held-out images of the same identities, with the evaluation transform; None if there are none.
        test: test images of the same identities, with the evaluation transform; an :class:`ImageList` or :class:`PackedImages` if
            they have no labels.
        val_pairs: labeled pairs for model selection, or None.
        test_pairs: pairs to score, usually without labels, or None.
    """

    root: Path
    layout: str
    train: LabeledFiles | PackedFaces
    dev: LabeledFiles | PackedFaces | None = None
    test: LabeledFiles | PackedFaces | ImageList | PackedImages | None = None
    val_pairs: PairList | None = None
    test_pairs: PairList | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the identities by class index; all labeled parts share them."""
        return self.train.classes

    def describe(self) -> str:
        """Several lines: layout, numbers of images and pairs."""

        def images(part: LabeledFiles | PackedFaces | ImageList | PackedImages | None) -> str:
            if part is None:
                return "none"
            return f"{len(part)} images" + (" without labels" if isinstance(part, (ImageList, PackedImages)) else "")

        def pairs(part: PairList | None) -> str:
            if part is None:
                return "none"
            genuine = "without labels" if part.labels is None else f"{int(part.labels.sum())} genuine"
            return f"{len(part)} pairs ({genuine}) of {len(part.paths)} images"

        return "\n".join(
            (
                f"{self.root.as_posix()}: {self.layout}",
                f"  train       {images(self.train)} of {len(self.classes)} identities",
                f"  dev         {images(self.dev)}",
                f"  test        {images(self.test)}",
                f"  val pairs   {pairs(self.val_pairs)}",
                f"  test pairs  {pairs(self.test_pairs)}",
            )
        )


def open_face_data(
    root: str | os.PathLike[str],
    train_transform: Transform | None = None,
    eval_transform: Transform | None = None,
    *,
    dev_fraction: float = 0.1,
    seed: int = 0,
) -> FaceData:
    """Open a folder of faces in any of these layouts:

    - HW2P2 to Fall 2024: ``cls_data/{train,dev,test}/<identity>/*.jpg``;
    - HW2P2 from Spring 2025: ``cls_data/{train,dev,test}/images/*.jpg`` with ``labels.txt`` beside ``images``;
    - either without ``cls_data/``; ``dev`` may be called ``val``, ``valid`` or ``validation``;
    - a packed folder (``facezoo pack``) of any of them;
    - no splits: one folder per identity, ``<identity>/*.jpg``, or ``images/`` and ``labels.txt``.

    ``dev`` and ``test`` may be missing, and ``test`` may be without labels. Beside them may be ``val_pairs.txt`` and
    ``test_pairs.txt`` with images in ``ver_data/``.

    Args:
        root: the folder.
        train_transform: for the training images.
        eval_transform: for dev and test images.
        dev_fraction: fraction of each identity's training images to hold out if there is no dev folder; 0 for none. The choice
            depends only on the names and ``seed``, and at least one image of each identity stays in the training set.
        seed: seed of that choice.

    Returns:
        The parts. All files that the lists name exist; the images are not decoded yet.

    Raises:
        FileNotFoundError: ``root`` does not exist, or pairs have no ``ver_data``.
        DataError: no layout fits (the message lists what was looked for), or a part is faulty.

    Warns:
        UserWarning: identities of the pairs are, by their names, also in the training set.
    """
    root = Path(root)
    if not root.is_dir():
        as_folder = " as a folder" if root.exists() else ""
        raise FileNotFoundError(f"data folder {root.as_posix()!r} does not exist{as_folder}{_packing_advice(root)}")
    if not 0 <= dev_fraction < 1:
        raise ValueError(f"dev_fraction: expected 0 <= dev_fraction < 1, got {dev_fraction}")
    if is_packed(root):
        return _open_packed(root, train_transform, eval_transform, dev_fraction, seed)
    found = _open_splits(root, train_transform, eval_transform)
    return _completed(found, train_transform, eval_transform, dev_fraction=dev_fraction, seed=seed)


def _open_splits(root: Path, train_transform: Transform | None, eval_transform: Transform | None) -> FaceData:
    """The splits that exist as folders, without pairs and without a held-out dev split."""
    base = root / "cls_data" if (root / "cls_data").is_dir() else root
    dev: LabeledFiles | None = None
    test: LabeledFiles | ImageList | None = None
    if (base / "train").is_dir():
        train = _open_labeled(base / "train", train_transform, None)
        if (dev_folder := _dev_folder(base)) is not None:
            dev = _open_labeled(dev_folder, eval_transform, train.classes)
        if (base / "test").is_dir():
            test = _open_test(base / "test", eval_transform, train.classes)
        kind = "images and labels.txt" if isinstance(train, LabeledImages) else "one folder per identity"
        layout = f"{'HW2P2' if base != root else 'one folder per split'}, {kind}"
    elif base == root and ((root / "labels.txt").is_file() or _holds_class_folders(root)):
        train = _open_plain(root, train_transform)
        layout = "images and labels.txt" if isinstance(train, LabeledImages) else "one folder per identity"
    else:
        raise DataError(_no_layout_message(root, base) + _packing_advice(root))
    return FaceData(root, layout, train, dev, test)


def _completed(
    data: FaceData,
    train_transform: Transform | None,
    eval_transform: Transform | None,
    *,
    dev_fraction: float,
    seed: int,
) -> FaceData:
    """Add the lists of pairs and, if there is no dev split, hold one out."""
    root, train, dev, layout = data.root, data.train, data.dev, data.layout
    if dev is None and dev_fraction:
        train, dev = _hold_out(train, dev_fraction, seed, train_transform, eval_transform)
        layout += f"; {len(dev) if dev else 0} training images held out as dev"
    val_pairs, test_pairs = (_open_pairs(root, name) for name in ("val_pairs.txt", "test_pairs.txt"))
    for name, pairs in (("val_pairs.txt", val_pairs), ("test_pairs.txt", test_pairs)):
        if pairs is not None and (shared := identity_overlap(train.classes, pairs.paths)):
            warnings.warn(
                f"{len(shared)} identities of {name} are also in the training set ({first_few(shared)}): "
                "verification figures will be too good; remove them from one of the two",
                stacklevel=3,
            )
    return FaceData(root, layout, train, dev, data.test, val_pairs, test_pairs)


def _open_packed(
    root: Path, train_transform: Transform | None, eval_transform: Transform | None, dev_fraction: float, seed: int
) -> FaceData:
    folder = PackedFolder(root)
    train = PackedFaces(folder, "train", train_transform)
    if not len(train):
        raise DataError(f"{root.as_posix()!r} is packed without training images")
    if int(train.labels.min()) < 0:
        raise DataError(f"{root.as_posix()!r} has training images without a label, so nothing can be trained on it")
    dev, labeled = (PackedFaces(folder, split, eval_transform) for split in ("dev", "test"))
    unlabeled = len(labeled) and int(labeled.labels.min()) < 0
    test = PackedImages(folder, labeled.indices, eval_transform) if unlabeled else labeled
    data = FaceData(root, "packed", train, dev if len(dev) else None, test if len(test) else None)
    return _completed(data, train_transform, eval_transform, dev_fraction=dev_fraction, seed=seed)


def identity_overlap(classes: Iterable[str], paths: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Identities whose names occur both among the training classes and among the evaluation images.

    The identity of an image is the name of its folder, or its file name without a trailing ``_0001``
    (``Aaron_Eckhart/Aaron_Eckhart_0001.jpg``). Class names that are numbers are not compared with file names: two data sets that
    number their identities share the numbers, not the people. The same person may have different names in the two sets, so an
    empty result does not prove that there is no overlap.

    Args:
        classes: names of the training classes.
        paths: images of the evaluation.

    Returns:
        The names in both, sorted.
    """
    known = {name.lower(): name for name in classes if not name.isdecimal()}
    found: set[str] = set()
    for path in paths:
        stem, folder = Path(path).stem, Path(path).parent.name
        candidates = [folder]
        if match := re.fullmatch(r"(.+?)_\d+(_\d+)?", stem):
            candidates += [match[1], stem.rpartition("_")[0]]
        found.update(known[name.lower()] for name in candidates if name.lower() in known)
    return tuple(sorted(found))


def _open_labeled(folder: Path, transform: Transform | None, classes: Sequence[str] | None) -> LabeledFiles:
    """A split with labels, in either of the two forms."""
    labels_file, images = folder / "labels.txt", folder / "images"
    if labels_file.is_file():
        return LabeledImages(images if images.is_dir() else folder, labels_file, transform, classes)
    if images.is_dir() and not any(entry.is_dir() and entry.name != "images" for entry in visible_entries(folder)):
        raise FileNotFoundError(
            f"{folder.as_posix()!r} holds images/ but no labels.txt; expected both, or one folder per identity"
        )
    return ImageFolder(folder, transform, classes)


def _open_test(folder: Path, transform: Transform | None, classes: Sequence[str]) -> LabeledFiles | ImageList:
    """The test split: with labels like the others, or without (ordered by ``labels.txt`` if it exists, else by name)."""
    labels_file, images = folder / "labels.txt", folder / "images"
    place = images if images.is_dir() else folder
    if labels_file.is_file():
        lines = read_lines(labels_file, "label file")
        if not is_unlabeled(lines):
            return LabeledImages(place, labels_file, transform, classes)
        names = [as_relative(line) for _, line in lines]
        check_files(place, names, labels_file)
        return ImageList([place / name for name in names], transform)
    # A folder with images directly in it has no labels. A class may be called "images", but there would be other classes beside
    # it.
    others = [entry for entry in visible_entries(folder) if entry.is_dir() and entry.name != "images"]
    if not others and (found := images_in(place)):
        return ImageList(found, transform)
    return ImageFolder(folder, transform, classes)


def _dev_folder(base: Path) -> Path | None:
    found = [base / name for name in _DEV_NAMES if (base / name).is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{base.as_posix()!r} holds {' and '.join(path.name for path in found)}: which is the dev split? Rename the other"
        )
    return found[0] if found else None


def _open_pairs(root: Path, name: str) -> PairList | None:
    file = root / name
    return read_pairs(file, root / "ver_data") if file.is_file() else None


def _hold_out(
    data: LabeledFiles | PackedFaces,
    fraction: float,
    seed: int,
    train_transform: Transform | None,
    eval_transform: Transform | None,
) -> tuple[LabeledFiles | PackedFaces, LabeledFiles | PackedFaces | None]:
    """Hold out images of every identity. The choice uses hashes of names, so it does not depend on the other identities."""
    members: dict[int, list[int]] = {}
    for index, label in enumerate(data.labels.tolist()):
        members.setdefault(label, []).append(index)
    held_out: list[int] = []
    names = [_within_split(name) for name in data.names]
    for label, indices in members.items():
        # Random rounding keeps the overall fraction right when identities have few images.
        lot = _fraction_of(f"{seed}/{data.classes[label]}")
        count = min(int(fraction * len(indices) + lot), len(indices) - 1)
        held_out += sorted(indices, key=lambda index: _fraction_of(f"{seed}/{names[index]}"))[:count]
    if not held_out:
        return data, None
    chosen = set(held_out)
    return (
        data.subset((index for index in range(len(data)) if index not in chosen), train_transform),
        data.subset(sorted(held_out), eval_transform),
    )


def _within_split(name: str) -> str:
    """A packed folder names its images from the source's root on, a folder from the split's on: both hold out the same ones."""
    return re.sub(r"^(cls_data/)?(train/)?(images/)?", "", name)


def _fraction_of(text: str) -> float:
    """A number in [0, 1) that depends only on the text; Python's own hash differs between processes."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big") / 2**48


def _open_plain(root: Path, transform: Transform | None) -> LabeledFiles:
    """A folder without splits."""
    if (root / "labels.txt").is_file():
        return _open_labeled(root, transform, None)
    if found := [name for name in sorted(_RESERVED) if (root / name).is_dir()]:
        raise DataError(
            f"{root.as_posix()!r} holds folders of identities beside {first_few(found)}, which would become an identity too; "
            "move the identities into train/"
        )
    return ImageFolder(root, transform)


def _holds_class_folders(root: Path) -> bool:
    return any(
        entry.is_dir()
        and entry.name not in _RESERVED
        and not any(inner.name in _RESERVED and inner.is_dir() for inner in visible_entries(entry))
        and holds_photos(root, entry.name)
        for entry in visible_entries(root)
    )


def _packing_advice(root: Path) -> str:
    """What to do with a source of labeled images that is no data folder: "" if ``root`` is none."""
    from facezoo.data.sources.source import SOURCES, recognized

    kind = recognized(root)
    # a folder of images has its own advice, a bin has no labels
    if kind in (None, "packed", "layout", "folder", "bin"):
        return ""
    return f"; it is {SOURCES[kind].description}: pack it first: facezoo pack {root.as_posix()} --out PACKED"


def _no_layout_message(root: Path, base: Path) -> str:
    message = (
        f"{root.as_posix()!r} has no known layout. Looked for: cls_data/train/ or train/ (with a folder per identity, "
        "or with images/ and labels.txt), images/ and labels.txt, and folders per identity, <identity>/*.jpg. "
    )
    held = [entry.name + ("/" if entry.is_dir() else "") for entry in visible_entries(base)]
    holds = first_few(held, 10) if held else "nothing"
    if base != root:
        return message + f"There is cls_data/, but no cls_data/train/; cls_data/ holds: {holds}"
    message += f"The folder holds: {holds}"
    inner = [path for path in sorted(root.iterdir()) if (path / "cls_data").is_dir() or (path / "train").is_dir()]
    return message + (f". Did you mean {inner[0].as_posix()!r}?" if inner else "")
