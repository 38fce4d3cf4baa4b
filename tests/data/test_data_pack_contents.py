"""What packing keeps and leaves out: files that change between two runs, pairs, few images, unlabeled ones, splits."""

from __future__ import annotations

import csv
import io
import os
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.cli import main
from facezoo.data import DataError, PackedFaces, PackedFolder, PackOptions, open_face_data, open_source, pack
from facezoo.data.errors import ImageReadError
from facezoo.data.image import decode_pixels
from facezoo.data.packed import PackedImages
from facezoo.data.sources import DatasetSource, Together
from small_packs import SMALL, packed, picture, write_pictures


class _Stop(BaseException):
    pass


def jpeg(number: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def people(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for index in range(count):
            write(root / name / f"{index}.jpg", jpeg(start + 100 * number + index))
    return root


def stopped(source: Path, out: Path, after: int) -> None:
    def stop(done: int, total: int) -> None:
        if done >= after:
            raise _Stop

    with pytest.raises(_Stop):
        pack(open_source(source), out, SMALL, progress=stop)


def pairs_file(path: Path, start: int) -> Path:
    return write(path, pickle.dumps(([jpeg(start + number) for number in range(12)], [True, False, True] * 2)))


def test_another_file_of_the_same_form_does_not_go_on_with_the_shards_of_the_first(tmp_path: Path) -> None:
    """The names in a .bin are row numbers, so only the files' sizes and times tell the two apart."""
    first, second = pairs_file(tmp_path / "a.bin", 0), pairs_file(tmp_path / "b.bin", 50)
    stopped(first, tmp_path / "out", 8)
    pack(open_source(second), tmp_path / "out", SMALL)
    pack(open_source(second), tmp_path / "whole", SMALL)
    assert (tmp_path / "out" / "shard-00000.bin").read_bytes() == (tmp_path / "whole" / "shard-00000.bin").read_bytes()


def test_a_picture_mended_between_two_runs_is_packed(tmp_path: Path) -> None:
    faces = people(tmp_path / "faces", {"ann": 6, "bob": 6})
    good = (faces / "ann" / "1.jpg").read_bytes()
    write(faces / "ann" / "1.jpg", good[:100])
    stopped(faces, tmp_path / "out", 8)
    write(faces / "ann" / "1.jpg", good)
    assert pack(open_source(faces), tmp_path / "out", SMALL).left_out == 0


def test_a_file_that_cannot_be_read_stops_the_run_and_nothing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = people(tmp_path / "faces", {"ann": 6, "bob": 6})
    source = open_source(faces)
    shutil.move(faces / "bob", tmp_path / "bob")
    with pytest.raises(ImageReadError, match=r"bob/\d\.jpg.*No such file"):
        pack(source, tmp_path / "out", SMALL)
    shutil.move(tmp_path / "bob", faces / "bob")
    assert pack(source, tmp_path / "out", SMALL).images == 12
    assert not list(tmp_path.glob(".*pack-lock"))


@pytest.mark.parametrize("keep_files", [False, True])
def test_pairs_are_packed_without_those_of_lost_images(tmp_path: Path, keep_files: bool) -> None:
    images = [jpeg(number) for number in range(8)]
    images[3] = images[3][:90]
    source = open_source(write(tmp_path / "lfw.bin", pickle.dumps((images, [True, False, True, False]))))
    report = pack(source, tmp_path / "out", PackOptions(size=(48, 40), keep_files=keep_files, images_per_shard=4))
    assert report.problems == {"corrupt": 1, "pairs_lost": 1}
    left, right, same = open_source(tmp_path / "out").pairs  # type: ignore[misc]
    assert (left.tolist(), right.tolist(), same.tolist()) == ([0, 3, 5], [1, 4, 6], [True, True, False])
    PackedFolder(tmp_path / "out").verify()
    content = bytearray((tmp_path / "out" / "pairs.npz").read_bytes())
    content[-200] ^= 1
    (tmp_path / "out" / "pairs.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"pairs\.npz"):
        PackedFolder(tmp_path / "out").verify()


def test_pairs_of_several_sources_are_joined_and_lost_lists_said(tmp_path: Path) -> None:
    sources = [open_source(pairs_file(tmp_path / f"{name}.bin", 50 * number)) for number, name in enumerate("ab")]
    left, right, same = Together(sources).pairs  # type: ignore[misc]
    assert left.tolist() == list(range(0, 24, 2))
    assert right.tolist() == list(range(1, 24, 2))
    assert same.tolist() == [True, False, True] * 4
    faces = people(tmp_path / "faces", {"ann": 2, "bob": 2})
    data = tmp_path / "data"
    shutil.copytree(faces, data / "train")
    for name in ("x.jpg", "y.jpg"):
        write(data / "ver_data" / name, jpeg(7))
    write(data / "val_pairs.txt", b"x.jpg y.jpg 1\n")
    report = pack(Together([open_source(data), open_source(faces)]), tmp_path / "together", SMALL)
    assert report.problems["lists_lost"] == 1
    assert "of several sources only the images are packed" in str(report)


def test_few_images_are_counted_after_the_corrupt_ones_and_people_of_dev_alone_stay(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    people(faces / "train", {"ann": 2, "bob": 3, "eve": 1})
    people(faces / "dev", {"bob": 1}, 500)
    write(faces / "train" / "ann" / "0.jpg", b"\xff\xd8 nothing")
    report = pack(open_source(faces), tmp_path / "out", PackOptions(size=(48, 40), min_images=2))
    folder = PackedFolder(tmp_path / "out")
    assert folder.identities == ("bob",)
    assert (report.images, report.problems["few_images"], report.problems["corrupt"]) == (4, 2, 1)
    folder.verify()
    for index, name in enumerate(folder.names):
        assert name.split("/")[1] == "bob"
        assert folder.pixels(index).shape == (48, 40, 3)
    rows = csv.DictReader((tmp_path / "out" / "problems.csv").read_text().splitlines())
    assert Counter(row["problem"] for row in rows)["few_images"] == 2

    class OtherPeople(DatasetSource):
        splits = ["train"] * 4 + ["dev"] * 2

    images = [(np.asarray(picture(number)), label) for number, label in enumerate((0, 0, 1, 1, 2, 2))]
    report = pack(OtherPeople(images), tmp_path / "celeba", PackOptions(size=(48, 40), min_images=2))
    assert report.images == 6


def test_a_loose_picture_is_left_out_and_said(tmp_path: Path) -> None:
    faces = people(tmp_path / "faces", {"ann": 2, "bob": 2})
    write(faces / "sheet.jpg", jpeg(9))
    report = pack(open_source(faces), tmp_path / "out", SMALL)
    assert report.problems["unlabeled"] == 1
    assert len(open_face_data(tmp_path / "out", dev_fraction=0).train) == 4
    photos = tmp_path / "photos"
    for number in range(3):
        write(photos / f"{number}.jpg", jpeg(number))
    assert pack(open_source(photos), tmp_path / "unlabeled", SMALL).images == 3


def test_when_nothing_is_left_the_list_of_problems_exists(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    write(faces / "ann" / "0.jpg", b"\xff\xd8")
    with pytest.raises(DataError, match=r"problems\.csv says why") as error:
        pack(open_source(faces), tmp_path / "out", SMALL)
    assert "corrupt" in (tmp_path / "out.partial" / "problems.csv").read_text()
    assert (tmp_path / "out.partial" / "problems.csv").as_posix() in str(error.value)
    write(faces / "ann" / "0.jpg", jpeg(0))
    assert pack(open_source(faces), tmp_path / "out", SMALL).images == 1


def test_unlabeled_repetitions_are_nobodys(tmp_path: Path) -> None:
    faces = people(tmp_path / "faces" / "train", {"ann": 2, "bob": 2}).parent
    write(faces / "test" / "0.jpg", (faces / "train" / "ann" / "0.jpg").read_bytes())
    problems = pack(open_source(faces), tmp_path / "out", SMALL).problems
    assert problems["split_leak"] == 1
    assert not {"contradiction", "duplicate"} & set(problems)


@pytest.mark.parametrize("change", ["image", "list", "gone"])
def test_verify_reads_the_lists_of_pairs_too(tmp_path: Path, change: str) -> None:
    faces = people(tmp_path / "faces" / "train", {"ann": 2, "bob": 2}).parent
    for name in ("x.jpg", "y.jpg"):
        write(faces / "ver_data" / name, jpeg(7))
    write(faces / "val_pairs.txt", b"x.jpg y.jpg 1\n")
    pack(open_source(faces), tmp_path / "out", SMALL)
    folder = PackedFolder(tmp_path / "out")
    folder.verify()
    file = tmp_path / "out" / ("val_pairs.txt" if change == "list" else "ver_data/x.jpg")
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-2] + b"0\n")
    with pytest.raises(DataError, match=file.name.replace(".", r"\.")):
        folder.verify()


def test_the_same_images_are_held_out_of_a_folder_and_of_its_packed_form(tmp_path: Path) -> None:
    for name in ("plain", "train", "cls_data/train"):
        root = tmp_path / name.replace("/", "_")
        people(root / ("" if name == "plain" else name), {f"p{number}": 10 for number in range(5)})
        pack(open_source(root), tmp_path / f"{root.name}.packed", SMALL)
        held = []
        for data in (open_face_data(root), open_face_data(tmp_path / f"{root.name}.packed")):
            held.append({"/".join(Path(file).parts[-2:]) for file, _ in data.dev.samples})  # type: ignore[union-attr]
        assert held[0] == held[1]
        assert len(held[0]) == 5


def test_an_unlabeled_test_split_is_there_after_packing(tmp_path: Path) -> None:
    faces = people(tmp_path / "faces" / "cls_data" / "train", {"ann": 2, "bob": 2}).parents[1]
    for number in range(3):
        write(faces / "cls_data" / "test" / f"{number}.jpg", jpeg(number))
    pack(open_source(faces), tmp_path / "out", SMALL)
    data = open_face_data(tmp_path / "out", dev_fraction=0)
    assert isinstance(data.test, PackedImages)
    assert [path.name for path in data.test.paths] == [f"{number}.jpg" for number in range(3)]
    assert "3 images without labels" in data.describe()
    assert data.test[1].shape == (48, 40, 3)  # type: ignore[union-attr]
    assert PackedFaces(tmp_path / "out").paths[0].parts[-2:] == ("ann", "0.jpg")


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    faces = people(tmp_path / "faces", {"ann": 3, "bob": 3})
    try:
        os.rename(os.fsencode(faces / "ann" / "0.jpg"), os.fsencode(faces / "ann") + b"/caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system takes no such names")
    held = open_face_data(faces, dev_fraction=0.4)
    pack(open_source(faces), tmp_path / "out", SMALL)
    again = open_face_data(tmp_path / "out", dev_fraction=0.4)
    assert [Path(file).name for file, _ in held.dev.samples] == [Path(file).name for file, _ in again.dev.samples]  # type: ignore[union-attr]


def with_segment_before_exif(content: bytes, size: int) -> bytes:
    """A JPEG with a large APP13 segment, as Photoshop writes, before everything else."""
    return content[:2] + b"\xff\xed" + (size + 2).to_bytes(2, "big") + bytes(size) + content[2:]


def test_an_orientation_tag_is_found_wherever_it_lies(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = decode_pixels(jpeg(3), "plain")
    turned = jpeg(3, exif=exif.tobytes())
    for content in (turned, with_segment_before_exif(turned, 6000)):
        assert np.array_equal(decode_pixels(content, "turned"), np.rot90(plain, -1))


def test_tar_labels_by_how_sure_they_are(tmp_path: Path) -> None:
    """A .txt beside a .cls is a caption, a .json without a label says nothing; whatever their order."""
    from facezoo.data import TarStream

    for order in (("cls", "jpg", "txt", "json"), ("txt", "json", "jpg", "cls"), ("jpg", "txt", "cls", "json")):
        content = {"cls": b"7", "txt": b"a photo of somebody", "json": b'{"width": 40}'}
        file = tmp_path / f"{'-'.join(order)}.tar"
        with tarfile.open(file, "w") as tar:
            for number in range(2):
                for ending in order:
                    member = tarfile.TarInfo(f"people/{number:04d}.{ending}")
                    data = content.get(ending) or jpeg(number)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        source = open_source(file)
        assert (source.identities, source.labels.tolist()) == (("7",), [0, 0])
        assert [label for _, label in TarStream(file, buffer=1)] == [7, 7]


def test_hard_links_in_a_tar(tmp_path: Path) -> None:
    from facezoo.data import TarStream

    faces = people(tmp_path / "faces", {"ann": 2, "bob": 2})
    os.link(faces / "ann" / "0.jpg", faces / "ann" / "9.jpg")
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for name in ("ann/0.jpg", "ann/1.jpg", "ann/9.jpg", "bob/0.jpg", "bob/1.jpg"):
            tar.add(faces / name, name)
    source = open_source(tmp_path / "faces.tar")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert source.read(2) == source.read(0) == (faces / "ann" / "0.jpg").read_bytes()
    with tarfile.open(tmp_path / "linked.tar", "w") as tar:
        for name, content in (("0.cls", b"1"), ("0.jpg", jpeg(0))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0.jpg"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"1\.jpg' is a hard link"):
        list(TarStream(tmp_path / "linked.tar", buffer=1))


def test_a_folder_too_high_and_an_archive_beside_the_data(tmp_path: Path) -> None:
    root = tmp_path / "kaggle"
    people(root / "hw2p2" / "cls_data" / "train", {"ann": 2, "bob": 2})
    people(root / "hw2p2" / "cls_data" / "dev", {"ann": 1, "bob": 1}, 500)
    with pytest.raises(DataError, match=r"did you mean '.*kaggle/hw2p2'"):
        open_source(root)
    with tarfile.open(root / "hw2p2" / "hw2p2.tar", "w") as tar:
        tar.add(root / "hw2p2" / "cls_data", "cls_data")
    assert Counter(open_source(root / "hw2p2").splits) == {"train": 4, "dev": 2}


@pytest.mark.parametrize("shape", [(1, 48, 48), (48, 48, 4), (48, 48)])
def test_arrays_that_are_no_rgb(shape: tuple[int, ...]) -> None:
    source = DatasetSource([(np.zeros(shape, dtype=np.uint8), 0)])
    with pytest.raises(DataError, match="is not an 8-bit RGB image but uint8 of shape"):
        source.read(0)


def test_commas_with_spaces_in_a_text_file(tmp_path: Path) -> None:
    faces = people(tmp_path / "faces", {"ann": 3})
    for row in (b"%d.jpg, %d.jpg, 1\n", b"%d.jpg, %d.jpg,1\n"):
        (faces / "ann" / "list.txt").write_bytes(b"".join(row % (number, number + 1) for number in range(2)))
        from facezoo.data import read_pairs

        assert len(read_pairs(faces / "ann" / "list.txt", faces / "ann")) == 2


def test_the_doctor_counts_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = write_pictures(tmp_path / "faces")
    packed(faces, "small")
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", str(faces), "--most", "0"])
    assert "--most: '0' is not a whole number of at least 1" in capsys.readouterr().err
