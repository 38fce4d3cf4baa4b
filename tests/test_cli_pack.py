from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facezoo.cli import main


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for number in range(4):
        path = tmp_path / "faces" / f"p{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "faces"


def test_pack_and_verify(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "packed"
    assert main(["pack", str(faces), "--out", str(out), "--size", "32", "--verify"]) == 0
    said = capsys.readouterr().out
    assert "4 images packed, 0 left out" in said
    assert "4  of another size: resized" in said
    assert main(["pack", str(out), "--verify"]) == 0
    assert "4 images of 2 identities are what was written" in capsys.readouterr().out
    shard = out / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["pack", str(out), "--verify"]) == 2
    assert "shard-00000.bin' has" in capsys.readouterr().err


def test_pack_says_what_is_missing(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(faces)]) == 2
    assert "name the folder to make with --out" in capsys.readouterr().err
    assert main(["pack", str(faces / "gone"), "--out", str(faces.parent / "p")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_several_sources_become_one(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "same.csv").write_text("0,p0,Ann\n1,p1,Ann\n")
    words = ["pack", str(faces), str(faces), "--out", str(tmp_path / "p"), "--size", "48"]
    assert main([*words, "--same-people", str(tmp_path / "same.csv")]) == 0
    assert (tmp_path / "p" / "identities.txt").read_text() == '"Ann"\n"0/p1"\n"1/p0"\n'
    assert "8 images packed" in capsys.readouterr().out
    (tmp_path / "same.csv").write_text("2,p0,Ann\n")
    assert main([*words, "--same-people", str(tmp_path / "same.csv")]) == 2
    assert "source 2 has no identity 'p0'" in capsys.readouterr().err
    assert main(["pack", str(faces), "--out", str(tmp_path / "q"), "--same-people", str(tmp_path / "same.csv")]) == 2
    assert "name at least two" in capsys.readouterr().err
