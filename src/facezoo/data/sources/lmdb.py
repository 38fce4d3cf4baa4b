"""Images in an LMDB. A value is an image file, or one with its label as msgpack or as a pickle, of which nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facezoo.data.errors import DataError
from facezoo.data.sources.lmdb_pages import check_pages
from facezoo.data.sources.pickles import read_plain_pickle
from facezoo.data.sources.source import SOURCES, Source, by_rank

_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF")
_MSGPACK_STARTS = (b"\x92", b"\x93", b"\xdc")  # a list of two, of three, of up to 65,535: no pickle begins so


@SOURCES.register("lmdb")
class LmdbSource(Source):
    """An LMDB of images. Needs the extra ``lmdb``.

    If the value is an image file, the key contains the label: ``<identity>/<name>``. Other values are lists ``file, label``, as
    msgpack (HSFace, and whatever is written by the tools of its authors; Vec2Face's ``file, feature, label``) or as pickles, which
    are read opcode by opcode (:func:`read_plain_pickle`). Keys that begin with two underscores are skipped.

    Args:
        path: the folder with ``data.mdb``, or one ``.lmdb``/``.mdb`` file.
    """

    description = "an LMDB of images"

    def __init__(self, path: Path) -> None:
        try:
            import lmdb
        except ImportError:
            raise ImportError(
                f"{path.as_posix()!r} is an LMDB; reading it needs: pip install 'facezoo[lmdb]'"
            ) from None
        self.root = path
        try:
            check_pages(path / "data.mdb" if path.is_dir() else path)
            self._environment: Any = lmdb.open(
                str(path),
                subdir=path.is_dir(),
                readonly=True,
                lock=False,
                readahead=False,
                create=False,
                max_readers=512,
            )
            self._keys: list[bytes] = []
            labels: list[object] = []
            with self._environment.begin(buffers=False) as transaction:
                for key, value in transaction.cursor():
                    if key.startswith(b"__"):
                        continue
                    self._keys.append(key)
                    labels.append(self._split(key, value)[1])
        except DataError:
            raise
        except (lmdb.Error, ValueError, OSError) as error:
            raise DataError(f"{path.as_posix()!r} is not an LMDB, or a damaged one: {str(error)[:200]}") from None
        if not self._keys:
            raise DataError(f"{path.as_posix()!r} holds no images")
        self.identities, self.labels = by_rank(labels)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A folder with ``data.mdb``, or a ``.mdb`` or ``.lmdb`` file."""
        return (path / "data.mdb").is_file() or (path.is_file() and path.suffix in (".lmdb", ".mdb"))

    @classmethod
    def open(cls, path: Path) -> LmdbSource:
        """See the class."""
        return cls(path)

    def name(self, index: int) -> str:
        """The key."""
        return self._keys[index].decode("utf-8", "replace")

    def file_of(self, index: int) -> Path:
        """The file of the LMDB."""
        return self.root / "data.mdb" if self.root.is_dir() else self.root

    def read(self, index: int) -> bytes:
        """The image file."""
        key = self._keys[index]
        with self._environment.begin(buffers=False) as transaction:
            value = transaction.get(key)
        if value is None:
            raise DataError(
                f"{self.root.as_posix()!r}: the key {key[:100]!r} is not where it belongs; the LMDB is damaged"
            )
        return self._split(key, value)[0]

    def _split(self, key: bytes, value: bytes) -> tuple[bytes, object]:
        place = f"{self.root.as_posix()!r}, key {key[:100]!r}"
        if value.startswith(_IMAGE_STARTS):
            identity, slash, _ = key.decode("utf-8", "replace").rpartition("/")
            if not slash:
                raise DataError(f"{place}: the value is an image without a label, and the key names no identity")
            return value, identity
        read = _read_msgpack if value.startswith(_MSGPACK_STARTS) else read_plain_pickle
        content = read(value, place)
        if not isinstance(content, (list, tuple)) or len(content) != 2 or not isinstance(content[0], bytes):
            raise DataError(f"{place}: the value is neither an image file nor a pickle or msgpack of one and its label")
        if not isinstance(content[1], (int, str)):
            raise DataError(f"{place}: the label is neither a number nor text")
        return content[0], content[1]


def _read_msgpack(value: bytes, place: str) -> Any:
    """A list from msgpack. Of three the middle one is left out: Vec2Face's feature; a label in bytes becomes text."""
    try:
        import msgpack
    except ImportError:
        raise ImportError(f"{place} is msgpack; reading it needs: pip install 'facezoo[lmdb]'") from None
    try:
        content = msgpack.unpackb(value, raw=True)
    except Exception as error:  # its errors have no base class of their own
        raise DataError(f"{place} is damaged msgpack: {str(error)[:200] or type(error).__name__}") from None
    if len(content) == 3:
        del content[1]
    if content and isinstance(content[-1], bytes):
        content[-1] = content[-1].decode("utf-8", "replace")
    return content
