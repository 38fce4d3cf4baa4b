"""Write synthetic faces to disk as a complete experiment: training, verification and an LFW-style protocol.

::

    root/cls_data/{train,dev,test}/<identity>/<image>.jpg   the same people in all three, other pictures
    root/ver_data/<image>.jpg                               other people; the names do not tell who
    root/val_pairs.txt                                      a.jpg b.jpg 1
    root/test_pairs.txt                                     a.jpg b.jpg
    root/test_pairs_labels.txt                              the answers: a.jpg b.jpg 1
    root/lfw/<Name>/<Name>_0001.jpg, root/lfw/pairs.txt     other people again, the official ten-fold format
    root/synthetic_faces.json                               the arguments

The people of training, validation pairs, test pairs and each LFW fold are disjoint: their identity numbers come from disjoint
ranges. Half of the pairs are genuine; no pair occurs twice. Everything is written to a temporary folder beside ``root``, which is
renamed when it is complete. Pictures can be drawn by spawned processes; the calling script must then guard its entry with
``if __name__ == "__main__":``.
"""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from facezoo.checks import whole
from facezoo.synthetic.dataset import (
    DEFAULT_DIFFICULTY,
    check_difficulty,
    identity_name,
    render_numbered,
)
from facezoo.synthetic.parameters import (
    FORMAT_VERSION,
    LFW_IDENTITIES,
    TRAINING_IDENTITIES,
    VERIFICATION_IDENTITIES,
    random_stream,
)

RECORD_NAME = "synthetic_faces.json"
_LFW_FOLDS = 10
# Numbers of dev and test pictures begin here, so that they do not change with the number of training pictures.
_FIRST_IMAGE = {"train": 0, "dev": 1 << 20, "test": 2 << 20}
_CHUNK = 32  # pictures per task of a worker


class SyntheticFacesError(RuntimeError):
    """The faces could not be written; the message names the folder and says what to do."""


@dataclass(frozen=True)
class _Request:
    """The arguments of a written set; stored beside it as JSON."""

    num_identities: int
    images_per_identity: int
    dev_images: int
    test_images: int
    verification_identities: int
    verification_images: int
    num_pairs: int
    lfw_identities: int
    lfw_images: int
    lfw_pairs_per_fold: int
    seed: int
    size: int
    difficulty: float


@dataclass(frozen=True)
class _Job:
    """One picture to write."""

    path: str  # relative to the root
    identity: int
    image: int


def write_synthetic_faces(
    root: str | os.PathLike[str],
    *,
    num_identities: int = 200,
    images_per_identity: int = 20,
    dev_images: int = 4,
    test_images: int = 4,
    verification_identities: int = 120,
    verification_images: int = 6,
    num_pairs: int = 1000,
    lfw_identities: int = 100,
    lfw_images: int = 6,
    lfw_pairs_per_fold: int = 50,
    seed: int = 0,
    size: int = 112,
    difficulty: float = DEFAULT_DIFFICULTY,
    num_workers: int = 0,
    progress: bool = True,
) -> Path:
    """Write synthetic faces in the layout of HW2P2 (Fall 2024), with an LFW-style protocol beside it; return ``root``.

    See :mod:`facezoo.synthetic.writing` for the files. A second call with the same arguments returns at once.

    Args:
        root: folder to create; it may exist if it is empty or holds the same set.
        num_identities: people of ``cls_data``, at least 1.
        images_per_identity: training pictures of each.
        dev_images: dev pictures of each; 0 leaves the folder out.
        test_images: test pictures of each; 0 leaves the folder out.
        verification_identities: people of ``ver_data``, at least 4; half of them for each list of pairs.
        verification_images: pictures of each, at least 2.
        num_pairs: pairs in each of the two lists, an even number.
        lfw_identities: people of ``lfw``, at least 20 (two for each fold); 0 leaves the folder out.
        lfw_images: pictures of each, at least 2.
        lfw_pairs_per_fold: genuine pairs of a fold, and as many impostor pairs.
        seed: the population.
        size: height and width in pixels, at least 32.
        difficulty: fraction in [0, 1], see :class:`SyntheticFaces`.
        num_workers: spawned processes that draw; 0 draws in this one. The files do not depend on it.
        progress: show a progress bar.

    Raises:
        ValueError: a count that is not an integer or outside its range, or more pairs than the people and pictures allow.
        SyntheticFacesError: ``root`` holds something else, cannot be written, or the disk is full.
    """
    request = _checked_request(
        difficulty, num_identities=num_identities, images_per_identity=images_per_identity, dev_images=dev_images,
        test_images=test_images, verification_identities=verification_identities, verification_images=verification_images,
        num_pairs=num_pairs, lfw_identities=lfw_identities, lfw_images=lfw_images, lfw_pairs_per_fold=lfw_pairs_per_fold,
        seed=seed, size=size,
    )  # fmt: skip
    _write(Path(root), request, whole("num_workers", num_workers, 0), progress)
    return Path(root)


def _write(root: Path, request: _Request, num_workers: int, progress: bool) -> None:
    target = root.resolve()  # links followed: a linked folder stays a link
    if _holds(target, request):
        return
    jobs, texts = _contents(request)
    with _readable_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
        work.mkdir()
        try:
            for folder in sorted({os.path.dirname(job.path) for job in jobs}):
                (work / folder).mkdir(parents=True, exist_ok=True)
            _write_images(work, jobs, request, num_workers, progress)
            for name, text in texts.items():
                (work / name).write_text(text, encoding="utf-8")
            _move_into_place(work, target, request)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _contents(request: _Request) -> tuple[list[_Job], dict[str, str]]:
    """The pictures to draw and the texts to write. An impossible request fails here, before any drawing."""
    jobs = list(_classification_jobs(request))
    verification_jobs, texts = _verification_set(request)
    jobs += verification_jobs
    if request.lfw_identities:
        lfw_jobs, texts["lfw/pairs.txt"] = _lfw_set(request)
        jobs += lfw_jobs
    texts[RECORD_NAME] = json.dumps(_record(request), indent=2) + "\n"
    return jobs, texts


# ------------------------------------------------------------------------------------------------------------------ request


_LEAST = {  # the smallest value of each count; the seed may be any integer
    "num_identities": 1, "images_per_identity": 1, "dev_images": 0, "test_images": 0, "verification_identities": 4,
    "verification_images": 2, "num_pairs": 2, "lfw_identities": 0, "lfw_images": 2, "lfw_pairs_per_fold": 1, "size": 32,
}  # fmt: skip


def _checked_request(difficulty: float, **counts: int) -> _Request:
    checked = {name: whole(name, value, _LEAST.get(name)) for name, value in counts.items()}
    request = _Request(**checked, difficulty=check_difficulty(difficulty))
    if request.num_pairs % 2:
        raise ValueError(f"num_pairs must be even (half of the pairs are genuine), got {request.num_pairs}")
    if 0 < request.lfw_identities < 2 * _LFW_FOLDS:
        raise ValueError(
            f"lfw_identities must be 0 or at least {2 * _LFW_FOLDS}, two for each of {_LFW_FOLDS} folds, "
            f"got {request.lfw_identities}"
        )
    for name, numbers in (
        ("num_identities", TRAINING_IDENTITIES),
        ("verification_identities", VERIFICATION_IDENTITIES),
        ("lfw_identities", LFW_IDENTITIES),
    ):
        if getattr(request, name) > len(numbers):
            raise ValueError(f"{name} must be at most {len(numbers)}, got {getattr(request, name)}")
    return request


def _record(request: _Request) -> dict[str, object]:
    return {"format": "facezoo synthetic faces", "version": FORMAT_VERSION, "arguments": asdict(request)}


def _holds(target: Path, request: _Request) -> bool:
    """Whether the folder exists and contains this set. Raises an error if it contains anything else."""
    if not os.path.lexists(target):
        return False
    if not target.is_dir():
        raise SyntheticFacesError(f"{target} is there and is not a folder; give the name of a new folder")
    try:
        if not any(target.iterdir()):
            return False
    except OSError as error:
        raise SyntheticFacesError(f"cannot look into the folder {target}: {error.strerror}") from error
    advice = "give the name of a new folder, or remove this one"
    try:
        record = json.loads((target / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SyntheticFacesError(
            f"the folder {target} is not empty and holds no synthetic faces; nothing was written: {advice}"
        ) from None
    wanted = _record(request)
    if record == wanted:
        return True
    found = record.get("arguments") if isinstance(record, dict) else None
    if not isinstance(found, dict):
        raise SyntheticFacesError(f"{target / RECORD_NAME} cannot be understood; nothing was written: {advice}")
    changed = [
        f"{key} {found.get(key)!r}, not {value!r}" for key, value in asdict(request).items() if found.get(key) != value
    ]
    if not changed:
        changed = [f"format version {record.get('version')!r}, not {FORMAT_VERSION}"]
    raise SyntheticFacesError(
        f"the folder {target} holds other synthetic faces ({'; '.join(changed)}); nothing was written: {advice}"
    )


# -------------------------------------------------------------------------------------------------------------------- lists


def _classification_jobs(request: _Request) -> Iterator[_Job]:
    counts = {"train": request.images_per_identity, "dev": request.dev_images, "test": request.test_images}
    for split, count in counts.items():
        for number in range(request.num_identities):
            identity = TRAINING_IDENTITIES.start + number
            for image in range(count):
                path = f"cls_data/{split}/{identity_name(number)}/{image:04d}.jpg"
                yield _Job(path, identity, _FIRST_IMAGE[split] + image)


def _verification_set(request: _Request) -> tuple[list[_Job], dict[str, str]]:
    """The pictures of ``ver_data``, with names that do not reveal the identity, and the texts of the three pair files."""
    people, images = request.verification_identities, request.verification_images
    names = [
        f"{n:06d}.jpg" for n in random_stream(request.seed, "verification names").permutation(people * images).tolist()
    ]
    jobs = [
        _Job(f"ver_data/{names[person * images + image]}", VERIFICATION_IDENTITIES.start + person, image)
        for person in range(people)
        for image in range(images)
    ]
    half = (people + 1) // 2
    texts = {}
    for split, members in (("val", range(half)), ("test", range(half, people))):
        rng = random_stream(request.seed, f"{split} pairs")
        genuine = _genuine_pairs(rng, members, images, request.num_pairs // 2, "num_pairs")
        impostors = _impostor_pairs(rng, members, images, request.num_pairs // 2, "num_pairs")
        pairs = [(*pair, 1) for pair in genuine] + [(*pair, 0) for pair in impostors]
        lines = []
        for k in rng.permutation(len(pairs)).tolist():
            a, b, same = pairs[k]
            if rng.random() < 0.5:
                a, b = b, a
            lines.append((names[a[0] * images + a[1]], names[b[0] * images + b[1]], str(same)))
        labeled = "".join(" ".join(line) + "\n" for line in lines)
        if split == "val":
            texts["val_pairs.txt"] = labeled
        else:
            texts["test_pairs.txt"] = "".join(" ".join(line[:2]) + "\n" for line in lines)
            texts["test_pairs_labels.txt"] = labeled
    return jobs, texts


def _lfw_set(request: _Request) -> tuple[list[_Job], str]:
    """The pictures of ``lfw`` and the text of its ``pairs.txt``: ten folds of disjoint people, genuine pairs first."""
    people, images, count = request.lfw_identities, request.lfw_images, request.lfw_pairs_per_fold
    names = [f"Synthetic_{person:05d}" for person in range(people)]
    jobs = [
        _Job(f"lfw/{name}/{name}_{image + 1:04d}.jpg", LFW_IDENTITIES.start + person, image)
        for person, name in enumerate(names)
        for image in range(images)
    ]
    rng = random_stream(request.seed, "lfw pairs")
    lines = [f"{_LFW_FOLDS}\t{count}"]
    for fold in range(_LFW_FOLDS):
        members = range(fold * people // _LFW_FOLDS, (fold + 1) * people // _LFW_FOLDS)
        for a, b in _genuine_pairs(rng, members, images, count, "lfw_pairs_per_fold"):
            lines.append(f"{names[a[0]]}\t{a[1] + 1}\t{b[1] + 1}")
        for a, b in _impostor_pairs(rng, members, images, count, "lfw_pairs_per_fold"):
            lines.append(f"{names[a[0]]}\t{a[1] + 1}\t{names[b[0]]}\t{b[1] + 1}")
    return jobs, "\n".join(lines) + "\n"


_Picture = tuple[int, int]  # person, image


def _genuine_pairs(
    rng: np.random.Generator, members: range, images: int, count: int, argument: str
) -> list[tuple[_Picture, _Picture]]:
    """``count`` different pairs of two pictures of one person, in sorted order."""
    of_one = list(itertools.combinations(range(images), 2))
    available = len(members) * len(of_one)
    if count > available:
        raise ValueError(
            f"{argument} asks for {count} genuine pairs among {len(members)} people with {images} pictures each, which make "
            f"{available}; ask for fewer pairs, or for more people or pictures"
        )
    chosen = np.sort(rng.permutation(available)[:count]).tolist()
    pairs = []
    for number in chosen:
        person, which = divmod(number, len(of_one))
        a, b = of_one[which]
        pairs.append(((members[person], a), (members[person], b)))
    return pairs


def _impostor_pairs(
    rng: np.random.Generator, members: range, images: int, count: int, argument: str
) -> list[tuple[_Picture, _Picture]]:
    """``count`` different pairs of pictures of two people, in sorted order."""
    available = len(members) * (len(members) - 1) // 2 * images * images
    if count > available:
        raise ValueError(
            f"{argument} asks for {count} impostor pairs among {len(members)} people with {images} pictures each, which make "
            f"{available}; ask for fewer pairs, or for more people or pictures"
        )
    if count > available // 2:  # few pairs to choose from: list them all, since random draws would repeat
        everyone = [
            ((members[p], a), (members[q], b))
            for p, q in itertools.combinations(range(len(members)), 2)
            for a, b in itertools.product(range(images), repeat=2)
        ]
        return [everyone[k] for k in np.sort(rng.permutation(available)[:count]).tolist()]
    pairs: set[tuple[_Picture, _Picture]] = set()
    while len(pairs) < count:
        p, q = rng.integers(len(members), size=2).tolist()
        if p != q:
            a, b = rng.integers(images, size=2).tolist()
            first, second = sorted([(members[p], a), (members[q], b)])
            pairs.add((first, second))
    return sorted(pairs)


# ------------------------------------------------------------------------------------------------------------------ writing


def _write_images(work: Path, jobs: Sequence[_Job], request: _Request, num_workers: int, progress: bool) -> None:
    from tqdm import tqdm

    chunks = [(work, jobs[start : start + _CHUNK], request) for start in range(0, len(jobs), _CHUNK)]
    with tqdm(total=len(jobs), desc="synthetic faces", unit="image", disable=not progress, leave=False) as bar:
        if num_workers == 0:
            for chunk in chunks:
                bar.update(_write_chunk(*chunk))
            return
        # Spawned, not forked: a fork of a process that runs torch's threads can hang.
        executor = ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn"))
        try:
            for done in executor.map(_write_chunk, *zip(*chunks, strict=True)):
                bar.update(done)
        except BrokenProcessPool as error:
            raise SyntheticFacesError(
                'a drawing process died; a script that asks for num_workers must guard its entry with if __name__ == "__main__":'
                " (num_workers=0 draws without processes)"
            ) from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _write_chunk(work: Path, jobs: Sequence[_Job], request: _Request) -> int:
    for job in jobs:
        picture = render_numbered(
            request.seed, job.identity, job.image, size=request.size, difficulty=request.difficulty
        )
        Image.fromarray(picture).save(work / job.path, "JPEG", quality=95)
    return len(jobs)


def _move_into_place(work: Path, target: Path, request: _Request) -> None:
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()  # an empty folder: renaming over it is an error on some systems
    try:
        work.rename(target)
    except OSError:
        # Another process wrote there meanwhile. If it is the same set, use it.
        if not _holds(target, request):
            raise


@contextmanager
def _readable_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SyntheticFacesError(
                f"no space left on the disk of {target}; nothing was kept: free some space, write elsewhere, "
                "or ask for fewer identities or images"
            ) from error
        raise SyntheticFacesError(
            f"cannot write synthetic faces to {target}: {error.strerror or error}; choose a folder that can be written"
        ) from error
