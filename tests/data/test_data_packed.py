# ruff: noqa: PT018
"""Packing: every byte comes back, faults of the images are said; batches depend on nothing else."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facezoo.data import (
    AugmentConfig,
    DataError,
    PackedFaces,
    PackedFolder,
    PackOptions,
    ResumableSampler,
    SeededDataset,
    TrainTransform,
    augment_recipe,
    eval_transform,
    make_loader,
    open_face_data,
    open_source,
    pack,
    packed_loader,
    train_transform,
)
from facezoo.data.augment_batches import erase, needs_the_host
from facezoo.data.augment_images import augment_image
from facezoo.data.augment_plan import columns_of, plan, uniforms
from facezoo.data.image import read_pixels
from facezoo.data.loader import BatchMaker, _Memory, _single_threaded, batches_ahead
from facezoo.data.sources import DatasetSource, Source, SourceDataset
from facezoo.preprocessing import Preprocessing
from small_packs import SMALL, packed, picture, write_pictures


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "faces")


def test_every_pixel_name_and_label_comes_back(faces: Path) -> None:
    source = open_source(faces)
    folder = PackedFolder(packed(faces))
    assert folder.identities == source.identities == ("p0", "p1", "p2")
    assert folder.names == tuple(source.name(n) for n in range(14))
    assert folder.labels.tolist() == source.labels.tolist()
    for index in range(14):
        assert np.array_equal(folder.pixels(index), source.pixels(index))
    order = np.array([13, 0, 5, 5, 8])
    assert np.array_equal(folder.gather(order), np.stack([source.pixels(int(n)) for n in order]))
    folder.verify()
    assert sorted(path.name for path in folder.root.iterdir()) == [
        "identities.txt", "index.npz", "names.txt", "packed.json", "problems.csv",
        "shard-00000.bin", "shard-00001.bin", "shard-00002.bin", "shard-00003.bin",
    ]  # fmt: skip
    assert [path.name for path in faces.parent.iterdir() if path.name not in ("faces", "packed")] == []


def test_files_are_kept_as_they_are(faces: Path) -> None:
    picture(99, (60, 30)).save(faces / "p0" / "zz.jpg")
    source = open_source(faces)
    folder = PackedFolder(packed(faces, options=PackOptions(keep_files=True, images_per_shard=4)))
    assert [folder.stored(n) for n in range(15)] == [source.read(n) for n in range(15)]
    assert np.array_equal(folder.pixels(5), source.pixels(5))
    folder.verify()
    with pytest.raises(DataError, match="several sizes"):
        folder.gather(np.arange(15))


def test_statistics_are_those_of_the_pixels(faces: Path) -> None:
    folder = PackedFolder(packed(faces))
    pixels = folder.gather(np.arange(14)).reshape(-1, 3) / 255
    assert folder.header["mean"] == pytest.approx(pixels.mean(0).tolist())
    assert folder.header["std"] == pytest.approx(pixels.std(0).tolist())


# ------------------------------------------------------------------ what is wrong with the data


def problems_of(folder: Path) -> set[tuple[str, str]]:
    lines = (folder / "problems.csv").read_text().splitlines()[1:]
    return {(line.split(",")[0], line.split(",")[1]) for line in lines}


def test_what_is_wrong_is_said_and_listed(tmp_path: Path) -> None:
    root = tmp_path / "faces"
    for folder in ("a", "b", "c"):
        (root / folder).mkdir(parents=True)
    base = Image.fromarray(np.asarray(picture(0, (5, 6)).resize((40, 48), Image.Resampling.BICUBIC)))
    base.save(root / "a" / "1.png")
    base.save(root / "a" / "2.bmp")  # the same pixels
    base.point(lambda value: min(value + 1, 255)).save(root / "a" / "3.png")  # nearly the same
    base.save(root / "b" / "1.png")  # another label
    picture(1).convert("L").save(root / "b" / "2.png")
    picture(2, (20, 24)).save(root / "b" / "3.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3, (48, 40)).save(root / "b" / "4.jpg", exif=exif)
    picture(4).convert("RGBA").save(root / "b" / "5.png")
    (root / "b" / "6.jpg").write_bytes(b"\xff\xd8 broken")
    Image.fromarray(np.full((48, 40), 40_000, dtype=np.uint16)).save(root / "b" / "7.png")
    picture(6).save(root / "c" / "1.png")
    report = pack(open_source(root), tmp_path / "packed", PackOptions(size=(48, 40), min_images=2))
    assert problems_of(tmp_path / "packed") == {
        ("a/2.bmp", "duplicate"), ("a/3.png", "near_duplicate"), ("b/1.png", "contradiction"), ("b/2.png", "gray"),
        ("b/3.png", "tiny"), ("b/3.png", "resized"), ("b/4.jpg", "turned"), ("b/5.png", "transparent"),
        ("b/6.jpg", "corrupt"), ("b/7.png", "corrupt"), ("c/1.png", "few_images"),
    }  # fmt: skip
    assert (report.images, report.left_out) == (8, 3)
    assert report.problems["corrupt"] == 2
    assert "2  left out: cannot be decoded" in str(report)
    folder = PackedFolder(tmp_path / "packed")
    assert folder.identities == ("a", "b")
    assert np.array_equal(folder.pixels(folder.names.index("b/4.jpg")), read_pixels(root / "b" / "4.jpg"))


def test_leaks_between_splits_and_with_pairs(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for split, number in (("train", 1), ("train", 2), ("dev", 1)):
        path = root / split / "Ann" / f"{split}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    for name in ("Ann_0001.png", "Bob_0001.png"):
        (root / "ver_data").mkdir(exist_ok=True)
        picture(len(name)).save(root / "ver_data" / name)
    (root / "val_pairs.txt").write_text("Ann_0001.png Bob_0001.png 0\n")
    with pytest.warns(UserWarning, match="also in the training set"):
        source = open_source(root)
    report = pack(source, tmp_path / "packed", SMALL)
    assert {("dev/Ann/dev1.png", "split_leak"), ("", "pairs_leak")} <= problems_of(tmp_path / "packed")
    assert report.problems["pairs_leak"] == 1
    with pytest.warns(UserWarning, match="also in the training set"):
        data = open_face_data(tmp_path / "packed")
    assert data.val_pairs is not None
    assert [read_pixels(path).shape for path in data.val_pairs.paths] == [(48, 40, 3)] * 2


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f" / "a").mkdir(parents=True)
    (tmp_path / "f" / "a" / "1.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no image is left"):
        pack(open_source(tmp_path / "f"), tmp_path / "p")


# ------------------------------------------------------------------ as a folder of faces


def test_a_packed_folder_opens_as_the_folder_it_was_made_of(faces: Path) -> None:
    plain, data = (open_face_data(folder, seed=3, dev_fraction=0.3) for folder in (faces, packed(faces)))
    assert data.classes == plain.classes
    assert data.train.names == plain.train.names
    assert plain.dev is not None and data.dev is not None
    assert data.dev.names == plain.dev.names
    assert data.train.labels.tolist() == plain.train.labels.tolist()
    assert [label for _, label in data.train.samples] == data.train.labels.tolist()


def test_splits_are_kept(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("dev", 2), ("test", 1)):
        for person in ("a", "b"):
            for number in range(count):
                path = tmp_path / "d" / "cls_data" / split / person / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(hash((split, person, number)) % 2**32).save(path)
    pack(open_source(tmp_path / "d"), tmp_path / "p", SMALL)
    data = open_face_data(tmp_path / "p")
    assert data.dev is not None and data.test is not None
    assert [len(part) for part in (data.train, data.dev, data.test)] == [6, 4, 2]
    assert data.dev.names[0] == "cls_data/dev/a/0.png"


PREPROCESSING = Preprocessing(img_size=(48, 40), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channel_order="bgr")


def test_evaluation_batches_equal_single_images(faces: Path) -> None:
    transform = eval_transform(PREPROCESSING)
    data = PackedFaces(packed(faces), transform=transform)
    images, labels = BatchMaker(data, transform).finish(*BatchMaker(data, transform).prepare(np.arange(14), 0))
    assert torch.equal(labels, data.labels)
    expected = torch.stack([data[n][0] for n in range(14)])
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-6)
    assert images.is_contiguous()


@pytest.mark.parametrize("name", ["standard", "strong", "adaface", "none"])
def test_batches_are_what_the_plan_says(faces: Path, name: str) -> None:
    loader = packed_loader(packed(faces), 5, name, preprocessing=PREPROCESSING, seed=4, threads=2)
    config, data, fill = augment_recipe(name), loader.maker.faces, train_transform(PREPROCESSING).fill
    batches = list(loader)
    assert len(batches) == 2
    order = torch.randperm(14, generator=torch.Generator().manual_seed(_order_seed(4, 0)))[:10].numpy()
    for number, (images, labels) in enumerate(batches):
        chosen = order[5 * number : 5 * number + 5]
        assert torch.equal(labels, data.labels[torch.from_numpy(chosen)])
        drawn = plan(config, uniforms(4, 0, chosen, columns_of(config)), (48, 40), fill)
        changed = [augment_image(data.folder.pixels(int(n)), drawn, k) for k, n in enumerate(chosen)]
        single = [train_transform(PREPROCESSING).to_input(pixels) for pixels in changed]
        # whole batches are not rounded to gray levels between the steps, single images are
        levels = 3 / 255 / 0.2 if name in ("standard", "adaface") else 2e-6
        torch.testing.assert_close(images, erase(torch.stack(single), drawn), rtol=0, atol=levels)


def _order_seed(seed: int, epoch: int) -> int:
    from facezoo.data.sampling import mix_seeds

    return mix_seeds(seed, epoch)


def collect(loader: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(loader)  # type: ignore[call-overload]


def same(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


def test_threads_resuming_and_epochs(faces: Path) -> None:
    folder = packed(faces)

    def make(**options: object) -> object:
        return packed_loader(folder, 3, "standard", seed=1, **options)  # type: ignore[arg-type]

    first = make(threads=0)
    epochs = [collect(first), collect(first)]
    assert not same(*epochs)
    for threads in (1, 3):
        other = make(threads=threads)
        assert same(collect(other), epochs[0])
        assert same(collect(other), epochs[1])
    stopped = make(threads=2)
    batches = iter(stopped)  # type: ignore[call-overload]
    begun = [next(batches), next(batches)]
    state = json.loads(json.dumps(stopped.state_dict()))  # type: ignore[attr-defined]
    batches.close()
    resumed = make(threads=1)
    resumed.load_state_dict(state)  # type: ignore[attr-defined]
    assert len(resumed) == 2  # type: ignore[arg-type]
    assert same(begun + collect(resumed), epochs[0])
    assert same(collect(resumed), epochs[1])


def test_ranks_share_a_batch(faces: Path) -> None:
    folder = packed(faces)
    whole = collect(packed_loader(folder, 6, "standard", seed=1, threads=0))
    parts = [
        collect(packed_loader(folder, 3, "standard", seed=1, threads=0, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    for number, (images, labels) in enumerate(whole):
        for rank in (0, 1):
            assert torch.equal(images[rank::2], parts[rank][number][0])
            assert torch.equal(labels[rank::2], parts[rank][number][1])


def test_the_batched_path_of_a_device_agrees(faces: Path) -> None:
    data = PackedFaces(packed(faces))
    config = AugmentConfig(horizontal_flip=0.5, crop_padding=4, brightness=0.2, erasing=0.5)
    maker = BatchMaker(data, train_transform(PREPROCESSING, config), seed=2)
    images, labels, drawn = maker.prepare(np.arange(14), 1)
    pixels = torch.from_numpy(data.gather(np.arange(14))[0])
    moved, _ = maker.finish(pixels, labels, drawn)
    assert (moved - images).abs().max() <= 1.01 / 255 / 0.2  # one gray level


@pytest.mark.parametrize("epoch", [0, 1, 2, 5])
def test_late_augmentation_begins_with_its_epoch(faces: Path, epoch: int) -> None:
    """From packed images, from files in this process and in a worker that lives on; as if it had been alone from the start."""
    first = AugmentConfig(horizontal_flip=0.5)
    late = AugmentConfig(horizontal_flip=0.5, crop_padding=4, rand_augment_ops=1)
    both = train_transform(PREPROCESSING, first, late, 2)
    alone = train_transform(PREPROCESSING, first if epoch < 2 else late)
    other = train_transform(PREPROCESSING, late if epoch < 2 else first)
    order, folder = np.arange(14), PackedFaces(packed(faces))

    def of_packed(transform: TrainTransform) -> torch.Tensor:
        return BatchMaker(folder, transform, seed=3).prepare(order, epoch)[0].clone()

    def of_files(transform: TrainTransform, workers: int) -> torch.Tensor:
        data = SeededDataset(SourceDataset(open_source(faces), transform), seed=3)
        loader = make_loader(data, 14, sampler=ResumableSampler(14, shuffle=False), num_workers=workers)
        next(iter(loader))  # an epoch before it
        data.set_epoch(epoch)
        return next(iter(loader))[0]

    assert torch.equal(of_packed(both), of_packed(alone)) and not torch.equal(of_packed(both), of_packed(other))
    for workers in (0, 1) if epoch == 2 else (0,):
        assert torch.equal(of_files(both, workers), of_files(alone, 0))
    assert not torch.equal(of_files(both, 0), of_files(other, 0))


@pytest.mark.parametrize(
    ("operation", "on_host"), [({"jpeg": 1.0}, True), ({"low_resolution": 1.0}, True), ({"blur": 1.0}, False)]
)
def test_a_gpu_gets_what_works_image_by_image_from_the_host(
    faces: Path, monkeypatch: pytest.MonkeyPatch, operation: dict[str, float], on_host: bool
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs CUDA
    transform = train_transform(PREPROCESSING, AugmentConfig(horizontal_flip=0.5, **operation))
    data, order = PackedFaces(packed(faces), transform=transform), np.arange(14)
    expected, _ = (maker := BatchMaker(data, transform)).finish(*maker.prepare(order, 0))
    images, _, drawn = BatchMaker(data, transform, device="cuda").prepare(order, 0)
    if on_host:
        assert torch.equal(images, expected)
    else:
        assert images.dtype == torch.uint8
        assert not needs_the_host(drawn)


def test_errors_in_a_thread_reach_the_caller_and_end_the_threads(faces: Path) -> None:
    data = PackedFaces(packed(faces))
    maker = BatchMaker(data, eval_transform(PREPROCESSING))
    batches = batches_ahead(maker, [np.array([0]), np.array([99])], 0, threads=2)
    next(batches)
    with pytest.raises(IndexError):
        next(batches)


def test_loader_says_what_does_not_fit(faces: Path) -> None:
    folder = packed(faces)
    with pytest.raises(ValueError, match="holds images of 48x40; the network takes 112x112: pack with --size 112x112"):
        packed_loader(folder, 2, preprocessing=Preprocessing())
    with pytest.raises(ValueError, match="14 images do not fill one batch of 15"):
        packed_loader(folder, 15)
    assert len(packed_loader(folder, 15, drop_last=False)) == 1
    with pytest.raises(ValueError, match="split is one of"):
        packed_loader(folder, 2, split="validation")
    with pytest.raises(FileNotFoundError, match="is not a packed folder"):
        packed_loader(faces, 2)


def test_packed_faces_cross_to_worker_processes(faces: Path) -> None:
    import pickle

    data = PackedFaces(packed(faces), transform=eval_transform(PREPROCESSING)).subset(
        [3, 1], eval_transform(PREPROCESSING)
    )
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[0][0], data[0][0])
    assert copy.names == data.names
    assert len(pickle.dumps(data)) < 20_000  # the map is not copied


def test_pixels_of_a_data_set_pack_too(faces: Path) -> None:
    data = PackedFaces(packed(faces))
    source: Source = DatasetSource(data)
    pack(source, faces.parent / "again", SMALL)
    again = PackedFolder(faces.parent / "again")
    assert all(np.array_equal(again.pixels(n), data.folder.pixels(n)) for n in range(14))
    shutil.rmtree(faces.parent / "again")


def test_memory_of_a_batch_is_used_again_only_when_nobody_holds_it():
    memory = _Memory()
    first = memory.take((2, 3))
    view, place = first[0], first.data_ptr()
    first.fill_(1.0)
    second = memory.take((2, 3))
    assert second.data_ptr() != place
    del first  # the view holds it still
    assert memory.take((2, 3)).data_ptr() not in (place, second.data_ptr())
    assert view.tolist() == [1.0, 1.0, 1.0]
    del view
    assert memory.take((2, 3)).data_ptr() == place
    assert memory.take((3, 2)).data_ptr() != place  # of another shape


def test_only_facezoos_transforms_get_arrays(faces: Path) -> None:
    class TakesPixels:
        takes_pixels = True

        def __call__(self, image: object) -> type:
            return type(image)

    folder = packed(faces)
    for data in (PackedFaces, lambda root, transform: SourceDataset(open_source(root), transform)):
        assert data(folder, transform=type)[0][0] is Image.Image
        assert data(folder, transform=TakesPixels())[0][0] is np.ndarray


def test_threads_that_make_batches_use_one_core_each() -> None:
    """Also in their first operation, when this thread has its own number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with _single_threaded(2) as pool:
            begun = threading.Barrier(2)
            counts = [pool.submit(lambda: (begun.wait(), torch.get_num_threads())[1]) for _ in range(2)]
            assert [count.result() for count in counts] == [1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
