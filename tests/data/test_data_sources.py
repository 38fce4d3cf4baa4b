"""Each source written by somebody else: from the format's description, by tarfile, lmdb, pyarrow, pickle; every byte comes back."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.data import DataError, ImageFolder
from facezoo.data.detection import read_landmarks
from facezoo.data.sources import (
    SOURCES,
    DatasetSource,
    LayoutSource,
    PairDatasetSource,
    Source,
    SourceDataset,
    Together,
    open_source,
    read_same_people,
)
from facezoo.data.sources.pickles import read_plain_pickle


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


IMAGES = [jpeg(number) for number in range(6)]
PEOPLE = ["9", "9", "10", "10", "10", "2"]  # as numbers, 2 < 9 < 10


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def record(content: bytes, split_at: int | None = None) -> bytes:
    """dmlc's recordio; with ``split_at`` in two parts, as where the data holds the magic number."""

    def part(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", 0xCED7230A, kind << 29 | len(data)) + data + bytes(-len(data) % 4)

    if split_at is None:
        return part(0, content)
    return part(1, content[:split_at]) + part(3, content[split_at + 4 :])


def write_records(folder: Path, *, index: bool = True, identities: bool = True, arrays: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    body, lines = b"", []
    parts: list[tuple[int, bytes]] = []
    if identities:
        parts.append((0, record(struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<ff", 7, 10))))
    for number, (person, image) in enumerate(zip(PEOPLE, IMAGES, strict=True), start=1):
        header = struct.pack("<IfQQ", 0, float(person), number, 0)
        if arrays:
            header = struct.pack("<IfQQ", 2, 0, number, 0) + struct.pack("<ff", float(person), 0)
        content = header + image
        split = None
        if number == 2:  # an image with the magic number inside, at a multiple of four
            content = header + image[:40] + struct.pack("<I", 0xCED7230A) + image[44:]
            split = len(header) + 40
        parts.append((number, record(content, split)))
    if identities:
        parts += [(7 + n, record(struct.pack("<IfQQ", 2, 0, 7 + n, 0) + struct.pack("<ff", 1, 3))) for n in range(3)]
    for key, part in parts:
        lines.append(f"{key}\t{len(body)}\n")
        body += part
    write(folder / "train.rec", body)
    if index:
        write(folder / "train.idx", "".join(lines))
    write(folder / "property", "3,112,112")
    return folder


def expected_record(number: int) -> bytes:
    image = IMAGES[number]
    return image[:40] + struct.pack("<I", 0xCED7230A) + image[44:] if number == 1 else image


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("index", [False, True])
def test_records(tmp_path: Path, index: bool, identities: bool, arrays: bool) -> None:
    source = open_source(write_records(tmp_path / "r", index=index, identities=identities, arrays=arrays))
    assert type(source) is SOURCES["records"]
    assert source.identities == ("2", "9", "10")
    assert [source.identities[label] for label in source.labels] == PEOPLE
    assert [source.read(number) for number in range(len(source))] == [expected_record(number) for number in range(6)]
    assert source.metadata == {"classes": 3, "size": [112, 112]}
    assert source.pixels(0).shape == (16, 16, 3)


def test_labels_of_records_are_found_without_their_images(tmp_path: Path) -> None:
    """They are not copied to look at the labels before them."""
    length, lines = 2**26, []
    with open(tmp_path / "train.rec", "wb") as file:  # images of zeros, of which the file system holds nothing
        for person in range(4):
            lines.append(f"{person + 1}\t{file.tell()}\n")
            file.write(struct.pack("<II", 0xCED7230A, 24 + length) + struct.pack("<IfQQ", 0, person, person, 0))
            file.truncate(file.tell() + length)
            file.seek(0, 2)
    write(tmp_path / "train.idx", "".join(lines))
    tracemalloc.start()
    source = open_source(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert most < 2**20
    assert source.read(3) == bytes(length)


def test_damaged_records_say_where(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "r")
    whole, index = (folder / "train.rec").read_bytes(), (folder / "train.idx").read_text()
    cases = [
        (whole[:-1000], index, "lies beyond|no complete record"),
        (b"\0" * len(whole), index, "there is no complete record at byte 0"),
        (whole, index + "x y\n", "line 11: expected 'key position'"),
        (whole, index.replace("\t0\n", "\t4\n"), "there is no complete record at byte 4"),
        (b"", index, "empty or cut"),
        (record(struct.pack("<IfQQ", 2**31, 0, 0, 0)), "1\t0\n", "claims 2147483648 labels"),
        (record(struct.pack("<IfQQ", 0, 0.5, 0, 0) + b"x"), "1\t0\n", "which is not a whole number"),
        (record(b"short"), "1\t0\n", "no complete header"),
    ]
    for content, lines, message in cases:
        write(folder / "train.rec", content)
        write(folder / "train.idx", lines)
        with pytest.raises(DataError, match=message):
            open_source(folder)


# ------------------------------------------------------------------ .bin


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("flags", [[True, False, True], [1, 0, 1]])
def test_bin(tmp_path: Path, protocol: int, flags: list[int]) -> None:
    images = IMAGES if protocol > 2 else [_Python2(image) for image in IMAGES]
    content = pickle.dumps((IMAGES, flags), protocol) if protocol > 2 else python2_pickle(images, flags)
    source = open_source(write(tmp_path / "lfw.bin", content))
    assert [source.read(number) for number in range(6)] == IMAGES
    assert source.pairs is not None
    left, right, same = source.pairs
    assert left.tolist() == [0, 2, 4]
    assert right.tolist() == [1, 3, 5]
    assert same.tolist() == [True, False, True]
    assert source.labels.tolist() == [-1] * 6


class _Python2(bytes):
    pass


def python2_pickle(images: list[_Python2], flags: list[int]) -> bytes:
    """What Python 2 wrote: byte strings as BINSTRING, with memo."""
    body = b"\x80\x02]q\x01("
    for number, image in enumerate(images, start=2):
        body += b"T" + struct.pack("<i", len(image)) + bytes(image) + b"q" + bytes([number])
    body += b"e]q\x50(" + b"".join(b"\x88" if flag else b"\x89" for flag in flags) + b"e"
    return body + b"\x86q\x51."


def source_of_pairs(tmp_path: Path, content: bytes) -> None:
    source = open_source(write(tmp_path / "lfw.bin", content))
    assert [source.read(number) for number in range(6)] == IMAGES
    assert source.pairs is not None
    assert source.pairs[2].tolist() == [True, False, True]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["bool", "u1", "<i4", ">i8"])
def test_a_bin_with_numpys_flags(tmp_path: Path, protocol: int, kind: str) -> None:
    """An array, and a list of numbers; in protocol 2 the images are calls of a codec."""
    flags = np.array([1, 0, 1], dtype=kind)
    source_of_pairs(tmp_path, pickle.dumps((IMAGES, flags), protocol))
    source_of_pairs(tmp_path, pickle.dumps((IMAGES, list(flags)), protocol))


DTYPE = b"cnumpy\ndtype\nU\x02b1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
ARRAY = EMPTY + b"(K\x01K\x03\x85" + DTYPE + b"\x89U\x03\x01\x00\x01tb"


def test_a_bin_with_numpys_flags_of_python_2(tmp_path: Path) -> None:
    assert read_plain_pickle(b"\x80\x02" + ARRAY + b".", "a.bin") == [True, False, True]
    flags = python2_pickle([_Python2(image) for image in IMAGES], [])
    source_of_pairs(tmp_path, flags.replace(b"]q\x50(e", ARRAY))


@pytest.mark.parametrize(
    "value",
    [np.zeros(2), np.zeros((2, 2), bool), np.array([None]), np.array(["a"]), np.float64(1), np.datetime64("2020")],
    ids=str,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_values_of_numpy_are_refused(value: object, protocol: int) -> None:
    with pytest.raises(DataError, match=r"a\.bin is refused"):
        read_plain_pickle(pickle.dumps(value, protocol), "a.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-8\x86R", "refused: it holds bytes in an unknown form"),
        (b"c_codecs\ndecode\nU\x01aX\x05\0\0\0utf-8\x86R", r"tries to import '_codecs\.decode'"),
        (b"cnumpy\nndarray\nK\x01\x85R", "refused: it holds an array"),
        (b"cnumpy\nload\nU\x01a\x85R", r"tries to import 'numpy\.load'"),
        (b"cnumpy.core.multiarray\nscalar\nK\x01U\x01\x01\x86R", "refused: it holds a number"),
        (
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02b1K\x00K\x01\x87RU\x01\x01\x86R",
            "refused: it holds numbers",
        ),
        (ARRAY + b"(K\x01K\x03\x85" + DTYPE + b"\x89U\x03\x01\x00\x01tb", "refused: it holds an array"),  # built twice
        (ARRAY.replace(b"K\x03\x85", b"K\x7f\x85"), "refused: it holds numbers"),
        (EMPTY + b"K\x01a", "damaged"),
        (b"]K\x01b", "tries to run something"),
        (b"]K\x01\x85R", "tries to run something"),
        (b"cnumpy\ndtype\nK\x01b", "tries to run something"),
        (DTYPE.replace(b"U\x01|", b"U\x01="), "refused: it holds a type of NumPy"),
        (DTYPE.replace(b"U\x01|", b"]"), "refused: it holds a type of NumPy"),
        (b"]]\x93", "damaged"),  # names that are lists
    ],
)
def test_known_names_with_other_arguments_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_plain_pickle(b"\x80\x02" + content + b".", "a.bin")


def test_a_small_pickle_that_would_make_much_is_refused() -> None:
    text = b"(X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x00c_codecs\nencode\nq\x01X\x06\0\0\0latin1q\x02"
    call = b"h\x01h\x00h\x02\x86R"
    assert len(read_plain_pickle(b"\x80\x02" + text + call + b"t.", "a.bin")) == 4
    with pytest.raises(DataError, match="more than twice its own size"):
        read_plain_pickle(b"\x80\x02" + text + 100 * call + b"t.", "a.bin")
    numbers = b"(" + EMPTY + b"(K\x01M\xe8\x03\x85q\x00" + DTYPE + b"q\x01\x89T\xe8\x03\0\0" + bytes(1000) + b"q\x02tb"
    again = EMPTY + b"(K\x01h\x00h\x01\x89h\x02tb"
    assert len(read_plain_pickle(b"\x80\x02" + numbers + again + b"t.", "a.bin")) == 2
    with pytest.raises(DataError, match="more than twice its own size"):
        read_plain_pickle(b"\x80\x02" + numbers + 100 * again + b"t.", "a.bin")


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_bin_that_tries_to_run_something_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    made = tmp_path / "made"
    content = pickle.dumps(([b"x", _Runs(made)], [True]), protocol)
    with pytest.raises(DataError, match=r"refused: (it tries to import '(posix\.mkdir|nt\.mkdir)'|opcode)"):
        read_plain_pickle(content, "a.bin")
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04cos\nsystem\n(S'ls'\ntR.", r"tries to import 'os\.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"tries to import 'os\.system'"),
        (b"\x80\x02(ios\nsystem\n.", "tries to run something"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02}.", "opcode EMPTY_DICT does not occur"),
        (b"\x80\x02]", "damaged|no end"),
        (b"\x80\x02.", "0 values are left"),
        (b"\x80\x02(.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02]e.", "damaged"),
        (b"\x80\x02K\x01K\x02a.", "damaged"),
        (b"", "damaged|no end"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_pickles_that_are_no_list(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_plain_pickle(content, "a.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES, [True]), "6 images and 1 flags"),
        ((IMAGES, [True, False, 2]), "neither true nor false"),
        (([1, 2], [True]), "an image is not bytes"),
        (IMAGES, "no list of images with a list of flags"),
        (([], []), "0 images and 0 flags"),
    ],
)
def test_bins_that_do_not_fit(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path / "a.bin", pickle.dumps(content)))


# ------------------------------------------------------------------ LMDB, tar, parquet


def write_lmdb(path: Path, items: list[tuple[bytes, bytes]]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=2**22) as environment, environment.begin(write=True) as transaction:
        for key, value in items:
            transaction.put(key, value)
    return path


@pytest.mark.parametrize("pickled", [False, True])
def test_lmdb(tmp_path: Path, pickled: bool) -> None:
    items = [
        (f"{number}".encode(), pickle.dumps((image, int(person))))
        if pickled
        else (f"{person}/{number}.jpg".encode(), image)
        for number, (person, image) in enumerate(zip(PEOPLE, IMAGES, strict=True))
    ]
    source = open_source(write_lmdb(tmp_path / "db", [*items, (b"__len__", b"6")]))
    assert source.identities == ("2", "9", "10")
    read = {source.read(number): source.identities[label] for number, label in enumerate(source.labels)}
    assert read == dict(zip(IMAGES, PEOPLE, strict=True))


@pytest.mark.parametrize("feature", [(), (b"an embedding",)])
def test_lmdb_of_msgpack(tmp_path: Path, feature: tuple[bytes, ...]) -> None:
    """The form of HSFace and of Vec2Face's training set, as the scripts of their authors write it."""
    msgpack = pytest.importorskip("msgpack")
    items = [
        (f"{number}".encode(), msgpack.dumps((image, *feature, int(person))))
        for number, (person, image) in enumerate(zip(PEOPLE, IMAGES, strict=True))
    ]
    keys = [key for key, _ in items]
    items += [
        (b"__keys__", msgpack.dumps(keys)),
        (b"__len__", msgpack.dumps(len(keys))),
        (b"__classnum__", msgpack.dumps(3)),
    ]
    source = open_source(write_lmdb(tmp_path / "db", items))
    assert source.identities == ("2", "9", "10")
    read = {source.read(number): source.identities[label] for number, label in enumerate(source.labels)}
    assert read == dict(zip(IMAGES, PEOPLE, strict=True))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x92\xc6\xff\xff\xff\xff", "damaged msgpack"),  # four gigabytes, it says
        (b"\x92\xa1x\xc0", "neither a number nor text"),
        (b"\x93\x01\x02\x03", "neither an image"),
        (b"\xdc\x00\x04\xa1x\x01\x01\x01", "neither an image"),
        (b"\xdc\x00\x00", "neither an image"),
    ],
)
def test_lmdb_of_damaged_msgpack(tmp_path: Path, value: bytes, message: str) -> None:
    pytest.importorskip("msgpack")
    with pytest.raises(DataError, match=message):
        open_source(write_lmdb(tmp_path / "db", [(b"0", value)]))


def test_lmdb_refuses_what_is_neither(tmp_path: Path) -> None:
    for number, (value, message) in enumerate(
        [
            (pickle.dumps(os.getcwd), "tries to import"),
            (IMAGES[0], "names no identity"),
            (pickle.dumps([1, 2]), "neither an image"),
        ]
    ):
        with pytest.raises(DataError, match=message):
            open_source(write_lmdb(tmp_path / f"db{number}", [(b"1", value)]))


@pytest.mark.parametrize("beside", ["cls", "json", "folder"])
def test_tar_shards(tmp_path: Path, beside: str) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"s{shard}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                stem = f"{PEOPLE[number]}/{number:04d}" if beside == "folder" else f"{number:04d}"
                label = json.dumps({"label": int(PEOPLE[number]), "x": 1}) if beside == "json" else PEOPLE[number]
                files = [(f"{stem}.jpg", IMAGES[number])]
                if beside != "folder":
                    files.append((f"{stem}.{beside}", label.encode()))
                for name, content in files:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    source = open_source(tmp_path)
    assert [source.read(number) for number in range(6)] == IMAGES
    assert [source.identities[label] for label in source.labels] == PEOPLE


def test_damaged_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(IMAGES[0])
        tar.addfile(info, io.BytesIO(IMAGES[0]))
    whole = (tmp_path / "s.tar").read_bytes()
    with pytest.raises(DataError, match=r"'a\.jpg' has no \.cls"):
        open_source(tmp_path / "s.tar")
    for content, message in (
        (whole[:700], "cut|not a complete tar"),
        (b"x" * 2000, "not a complete tar"),
        (b"", "not a complete tar"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(write(tmp_path / "s.tar", content))


@pytest.mark.parametrize("hub", [False, True])
def test_parquet(tmp_path: Path, hub: bool) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for part in range(2):
        rows = range(3 * part, 3 * part + 3)
        images = [{"bytes": IMAGES[n], "path": f"{n}.jpg"} if hub else IMAGES[n] for n in rows]
        table = arrow.table({"image": images, "label": [int(PEOPLE[n]) for n in rows]})
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "data" / f"train-{part}.parquet", row_group_size=2)
    source = open_source(tmp_path)
    assert [source.read(number) for number in (5, 0, 3, 1, 2, 4)] == [IMAGES[n] for n in (5, 0, 3, 1, 2, 4)]
    assert [source.identities[label] for label in source.labels] == PEOPLE


def test_parquet_of_pairs_and_damaged_ones(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"image1": IMAGES[:3], "image2": IMAGES[3:], "target": [1, 0, 1]})
    parquet.write_table(table, tmp_path / "p.parquet")
    source = open_source(tmp_path / "p.parquet")
    assert source.pairs is not None
    left, right, same = source.pairs
    assert same.tolist() == [True, False, True]
    assert [source.read(n) for n in left] == IMAGES[:3]
    assert [source.read(n) for n in right] == IMAGES[3:]
    parquet.write_table(arrow.table({"x": [1]}), tmp_path / "q.parquet")
    with pytest.raises(DataError, match="has the columns x; expected image and label"):
        open_source(tmp_path / "q.parquet")
    with pytest.raises(DataError, match="not a complete parquet file"):
        open_source(write(tmp_path / "cut.parquet", (tmp_path / "p.parquet").read_bytes()[:-20]))


# ------------------------------------------------------------------ folders, lists, data sets, several together


def test_folders_with_sessions(tmp_path: Path) -> None:
    for name, image in zip(("b/s1/1.jpg", "b/s2/1.jpg", "a/1.jpg", "loose.jpg"), IMAGES, strict=False):
        write(tmp_path / name, image)
    source = open_source(tmp_path)
    assert [source.name(n) for n in range(4)] == ["a/1.jpg", "b/s1/1.jpg", "b/s2/1.jpg", "loose.jpg"]
    assert source.labels.tolist() == [0, 1, 1, -1]
    assert source.read(0) == IMAGES[2]


def test_layouts_keep_their_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("dev", 1), ("test", 1)):
        for person in ("p", "q"):
            for number in range(count):
                write(tmp_path / f"cls_data/{split}/{person}/{number}.jpg", IMAGES[number])
    source = open_source(tmp_path)
    assert isinstance(source, LayoutSource)
    assert source.splits == ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    assert source.name(6) == "cls_data/dev/p/0.jpg"
    spring = tmp_path / "spring"
    for split in ("train", "test"):
        for number in range(3):
            write(spring / split / "images" / f"{number}.jpg", IMAGES[number])
    write(spring / "train" / "labels.txt", "0.jpg 5\n1.jpg 5\n2.jpg 7\n")
    source = open_source(spring)
    assert source.identities == ("5", "7")
    assert source.labels.tolist() == [0, 0, 1, -1, -1, -1]
    assert source.splits == ["train"] * 3 + ["test"] * 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", 'file,label\n"a, b.jpg",9\nc.jpg,10\n'),
        ("l.tsv", "a, b.jpg\t9\nc.jpg\t10\n"),
        ("l.txt", "a, b.jpg 9\nc.jpg 10\n"),
    ],
)
def test_lists(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path / "a, b.jpg", IMAGES[0])
    write(tmp_path / "c.jpg", IMAGES[1])
    source = open_source(write(tmp_path / name, text))
    assert source.identities == ("9", "10")
    assert [source.read(0), source.read(1)] == IMAGES[:2]


def test_datasets_as_they_are(tmp_path: Path) -> None:
    for number, person in enumerate(("a", "a", "b")):
        write(tmp_path / person / f"{number}.jpg", IMAGES[number])
    source = DatasetSource(ImageFolder(tmp_path))
    assert source.identities == ("a", "b")
    assert source.labels.tolist() == [0, 0, 1]
    assert np.array_equal(source.pixels(2), np.asarray(Image.open(io.BytesIO(IMAGES[2]))))
    with pytest.raises(DataError, match="3 images but 2 labels"):
        DatasetSource(ImageFolder(tmp_path), labels=[0, 1])


def test_several_together_keep_people_apart_unless_told(tmp_path: Path) -> None:
    parts: list[Source] = []
    for number, folder in enumerate(("one", "two")):
        write(tmp_path / folder / "ann" / "1.jpg", IMAGES[number])
        write(tmp_path / folder / "bob" / "1.jpg", IMAGES[number + 2])
        parts.append(open_source(tmp_path / folder))
    both = Together(parts)
    assert both.identities == ("0/ann", "0/bob", "1/ann", "1/bob")
    assert [both.read(n) for n in range(4)] == [IMAGES[n] for n in (0, 2, 1, 3)]
    assert both.name(3) == "1/bob/1.jpg"
    same = Together(parts, {(0, "ann"): "Ann", (1, "ann"): "Ann"})
    assert same.identities == ("Ann", "0/bob", "1/bob")
    assert same.labels.tolist() == [0, 1, 0, 2]
    with pytest.raises(ValueError, match="source 1 has no identity 'eve'"):
        Together(parts, {(1, "eve"): "Eve"})


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is not a known source of images; known: packed"):
        open_source(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_source(tmp_path / "gone")
    with pytest.raises(ValueError, match="unknown source 'recrods'"):
        open_source(tmp_path, "recrods")
    with pytest.raises(
        TypeError, match=r"a path, got a list; a data set is wrapped in facezoo.data.sources.DatasetSource"
    ):
        open_source([])


def test_a_source_of_ones_own_is_recognized_first(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.jpg", IMAGES[0])
    write(tmp_path / "mine.txt", "")

    class Mine(SOURCES["folder"]):  # type: ignore[misc]
        @classmethod
        def recognizes(cls, path: Path) -> bool:
            return (path / "mine.txt").exists()

    SOURCES.register("mine", Mine)
    try:
        assert type(open_source(tmp_path)) is Mine
    finally:
        SOURCES.unregister("mine")


def test_people_of_several_sources_by_a_table(tmp_path: Path) -> None:
    table = write(tmp_path / "same.csv", '0,a,Ann\n1,b,Ann\n1,"c, d",Bob\n')
    assert read_same_people(table) == {(0, "a"): "Ann", (1, "b"): "Ann", (1, "c, d"): "Bob"}
    for text, message in (
        ("0,a\n", "line 1: expected 'source,identity,person'"),
        ("x,a,b\n", "expected"),
        ("0,a,b\n0,a,c\n", "two people"),
    ):
        with pytest.raises(DataError, match=message):
            read_same_people(write(tmp_path / "same.csv", text))


# ------------------------------------------------------------------ published layouts


@pytest.fixture
def lfw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LFW's folder with made-up people; torchvision compares checksums of the real files, which is left out."""
    lfw = pytest.importorskip("torchvision.datasets").lfw
    monkeypatch.setattr(lfw, "check_integrity", lambda *_: True)
    for number, name in enumerate(("A_B/A_B_0001", "A_B/A_B_0002", "C/C_0001", "C/C_0003", "D/D_0001")):
        write(tmp_path / f"lfw-py/lfw_funneled/{name}.jpg", IMAGES[number])
    write(tmp_path / "lfw-py/pairs.txt", "2\t1\nA_B\t1\t2\nA_B\t1\tC\t1\nC\t1\t3\nC\t3\tD\t1\n")
    write(tmp_path / "lfw-py/pairsDevTest.txt", "1\nA_B\t1\t2\nA_B\t2\tD\t1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("where", "split"), [("", "10fold"), ("lfw-py", "10fold"), ("lfw-py/pairsDevTest.txt", "test")]
)
def test_lfw_as_torchvision_keeps_it(lfw: Path, where: str, split: str) -> None:
    from torchvision.datasets import LFWPairs

    peer = LFWPairs(str(lfw), split=split)
    for source in (open_source(lfw / where), PairDatasetSource(peer)):
        assert source.pairs is not None
        left, right, same = source.pairs
        assert same.tolist() == [target == 1 for target in peer.targets]
        for index in range(len(peer)):
            first, second, _ = peer[index]
            assert np.array_equal(source.pixels(int(left[index])), np.asarray(first))
            assert np.array_equal(source.pixels(int(right[index])), np.asarray(second))
    source = open_source(lfw / where)
    assert source.identities[source.labels[0]] == "A_B"


def test_a_course_folder_with_lfw_in_it_is_the_course_folder(lfw: Path) -> None:
    """Else `facezoo pack` would take the test images for those to train on."""
    for folder in ("cls_data/train/A", "cls_data/dev/A"):
        write(lfw / "lfw-py" / folder / "0.jpg", IMAGES[0])
    source = open_source(lfw / "lfw-py")
    assert list(source.identities) == ["A"]
    assert open_source(lfw / "lfw-py", "lfw").pairs is not None


def test_pairs_of_a_data_set_must_have_a_flag_each(lfw: Path) -> None:
    with pytest.raises(DataError, match="expected 0 or 1 for each of 2 pairs"):
        PairDatasetSource([(0, 0, 0)] * 2, [0, 2])
    with pytest.raises(DataError, match="is not an 8-bit RGB image"):
        PairDatasetSource([(0, 0, 0)]).read(0)


def test_celeba_as_torchvision_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    celeba = pytest.importorskip("torchvision.datasets").celeba
    monkeypatch.setattr(celeba, "check_integrity", lambda *_: True)
    base, names = tmp_path / "celeba", [f"{n:06d}.jpg" for n in range(1, 7)]
    for name, image in zip(names, IMAGES, strict=True):
        write(base / "img_align_celeba" / name, image)
    people = dict(zip(names, (10, 9, 10, 3, 3, 4), strict=True))
    write(base / "identity_CelebA.txt", "".join(f"{name} {person}\n" for name, person in people.items()))
    write(base / "list_eval_partition.txt", "".join(f"{name} {n // 2}\n" for n, name in enumerate(names)))
    points = "69  109 106 113 77 142 73 152 108  154"
    for file, header in (
        ("list_bbox_celeba.txt", "x"),
        ("list_landmarks_align_celeba.txt", "a b"),
        ("list_attr_celeba.txt", "x"),
    ):
        row = points if "landmarks" in file else "1"
        write(base / file, f"6\n{header}\n" + "".join(f"{name}  {row}\n" for name in names))
    source = open_source(tmp_path)
    assert source.splits == ["train", "train", "dev", "dev", "test", "test"]
    assert source.identities == ("3", "4", "9", "10")
    for split, rows in (("train", (0, 1)), ("valid", (2, 3)), ("test", (4, 5)), ("all", range(6))):
        peer = celeba.CelebA(str(tmp_path), split=split, target_type="identity")
        from_object = DatasetSource(peer)
        assert len(peer) == len(rows)
        for index, row in enumerate(rows):
            image, person = peer[index]
            assert (
                source.identities[source.labels[row]]
                == str(int(person))
                == from_object.identities[from_object.labels[index]]
            )
            assert np.array_equal(source.pixels(row), np.asarray(image))
            assert np.array_equal(from_object.pixels(index), np.asarray(image))
    assert read_landmarks(base / "list_landmarks_align_celeba.txt")["000002.jpg"].tolist()[2] == [77, 142]
    (base / "img_align_celeba" / names[3]).unlink()
    with pytest.raises(DataError, match="000004"):
        open_source(base)
    write(base / "list_eval_partition.txt", "000001.jpg 3\n")
    with pytest.raises(DataError, match=r"000002\.jpg' is in one of"):
        open_source(base)


def test_the_gallery_task(tmp_path: Path) -> None:
    for number, name in enumerate(
        ("known/n01/a.jpg", "known/n02/b.jpg", "unknown_dev/0.jpg", "unknown_dev/1.jpg", "unknown_test/0.jpg")
    ):
        write(tmp_path / "verification" / name, IMAGES[number])
    write(tmp_path / "verification/verification_dev.csv", "id,label\n0,n02\n1,n000000\n")
    source = open_source(tmp_path)
    assert source.splits == ["train", "train", "dev", "dev", "test"]
    assert source.labels.tolist() == [0, 1, 1, -1, -1]
    assert source.identities == ("n01", "n02")
    assert [source.read(n) for n in range(5)] == IMAGES[:5]
    write(tmp_path / "verification/verification_dev.csv", "id,label\n0,n02\n")
    with pytest.raises(DataError, match="has 1 rows with a label for 2 photos"):
        open_source(tmp_path / "verification")


@pytest.mark.parametrize("workers", [0, 2])
def test_tar_shards_are_trained_on_as_they_lie(tmp_path: Path, workers: int) -> None:
    from facezoo.data import eval_transform, make_loader
    from facezoo.preprocessing import Preprocessing

    for shard in range(2):
        with tarfile.open(tmp_path / f"s{shard}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                info = tarfile.TarInfo(f"{PEOPLE[number]}/{number:04d}.jpg")
                info.size = len(IMAGES[number])
                tar.addfile(info, io.BytesIO(IMAGES[number]))
    source, transform = open_source(tmp_path), eval_transform(Preprocessing(img_size=(16, 16)))
    data = SourceDataset(source, transform)
    assert [data.classes[label] for label in data.labels] == PEOPLE
    images, labels = next(iter(make_loader(data, 6, num_workers=workers)))
    assert labels.tolist() == data.labels.tolist()
    for number in range(6):
        assert np.array_equal(images[number].numpy(), transform(source.pixels(number)).numpy())
    assert np.array_equal(SourceDataset(source)[4][0], source.pixels(4))
    with pytest.raises(ValueError, match="no labeled image in the split 'dev'"):
        SourceDataset(source, split="dev")


def test_damaged_rows_of_a_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"image": IMAGES, "label": [0] * len(IMAGES)}), path, compression="none")
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(
        56
    )  # the header of the first page of images; what the file says of its columns stands at its end
    path.write_bytes(content)
    with pytest.raises(DataError, match="rows cannot be read") as error:
        open_source(path).read(0)
    assert "\n" not in str(error.value)
