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
