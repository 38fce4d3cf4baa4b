"""Parquet of the Hub by name: against a Hub on loopback, through the real huggingface_hub."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hub_server import hub_client, running_hub

from facezoo.cli import main
from facezoo.data import DataError, PackedFolder, open_source
from facezoo.data.sources import ParquetSource
from small_packs import picture

arrow = pytest.importorskip("pyarrow")


def table(**columns: object) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def test_data_sets_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [png(number) for number in range(6)]
    stored = [{"bytes": image, "path": None} for image in images]
    with running_hub() as server, hub_client(server.endpoint, tmp_path / "home"):
        first = server.commit(
            "team/faces", {"data/train-0.parquet": table(image=stored[:2], label=[5, 7]), "README.md": b"x"}
        )
        server.commit("team/faces", {"data/test-0.parquet": table(image=stored[2:4], label=[5, 5])})
        server.commit(
            "team/pairs", {"x/validation/0000.parquet": table(image1=images[:3], image2=images[3:], target=[1, 0, 1])}
        )
        server.commit("team/text", {"a.csv": b"x"})
        source = open_source("hf-hub:team/faces")
        assert isinstance(source, ParquetSource)
        assert [source.read(n) for n in range(4)] == [images[n] for n in (2, 3, 0, 1)]
        assert source.splits == ["test", "test", "train", "train"]
        assert [source.identities[label] for label in source.labels] == ["5", "5", "5", "7"]
        assert not any("README" in request for request in server.requests)
        old = open_source(f"hf-hub:team/faces@{first}")
        assert len(old) == 2
        assert old.metadata == {"hub": "team/faces", "commit": first}
        pairs = open_source("hf-hub:team/pairs")
        assert pairs.pairs is not None
        assert pairs.pairs[2].tolist() == [True, False, True]
        assert pairs.splits == ["dev"] * 6
        assert pairs.read(1) == images[3]
        assert main(["pack", "hf-hub:team/faces", "--out", str(tmp_path / "p"), "--size", "48x40"]) == 0
        assert PackedFolder(tmp_path / "p").header["origin"]["commit"] == server.commits["team/faces"][-1][0]
        for name, message in (
            ("hf-hub:team/none", "there is no repository team/none"),
            ("hf-hub:team/faces@nowhere", "has no revision 'nowhere'"),
            ("hf-hub:team/text", "has no revision 'refs/convert/parquet'"),
            ("hf-hub:../x", "is not a data set of the Hub"),
            ("hf-hub:faces", "is not a data set of the Hub"),
        ):
            with pytest.raises(DataError, match=message):
                open_source(name)
        capsys.readouterr()
