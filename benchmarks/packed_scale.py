"""Opening a packed folder of a million images and more: seconds, memory, file handles. The index is made up, the shards are holes.

python benchmarks/packed_scale.py --images 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from common import write_results

PER_SHARD = 4096
OPENED = """
import os, resource, sys, time
import numpy as np, torch
from facezoo.data import PackedFaces, ResumableSampler
def memory():
    return [int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmRSS")][0]
before, handles, start = memory(), len(os.listdir("/proc/self/fd")), time.perf_counter()
faces = PackedFaces(sys.argv[1])
opened, held = time.perf_counter() - start, memory() - before
start = time.perf_counter()
order = ResumableSampler(len(faces), rank=3, world_size=64).order().numpy()
shuffled = time.perf_counter() - start
for number in range(50):
    faces.gather(order[number * 128:(number + 1) * 128])
name = faces.folder.names[len(faces) // 2]
print(opened, held, shuffled, len(os.listdir("/proc/self/fd")) - handles, len(faces.folder._maps))
"""


def make_up(folder: Path, images: int, side: int = 112) -> None:
    """A packed folder whose shards are files of holes: nothing of them is on the disk."""
    folder.mkdir()
    people = max(images // 60, 1)
    numbers = np.arange(images)
    shards = [f"shard-{number:05d}.bin" for number in range(-(-images // PER_SHARD))]
    rows = numbers % PER_SHARD
    np.savez(
        folder / "index.npz", labels=numbers % people, splits=np.zeros(images, np.uint8), checksums=np.zeros(images, np.uint32),
        shards=numbers // PER_SHARD, rows=rows, offsets=rows * side * side * 3, lengths=np.full(images, side * side * 3),
    )  # fmt: skip
    (folder / "names.txt").write_text("".join(f'"{number % people:07}/{number:08}.jpg"\n' for number in range(images)))
    (folder / "identities.txt").write_text("".join(f'"{number:07}"\n' for number in range(people)))
    for number, name in enumerate(shards):
        with (folder / name).open("wb") as file:
            file.truncate(min(PER_SHARD, images - number * PER_SHARD) * side * side * 3)
    files = {path.name: {"bytes": path.stat().st_size, "crc32": 0} for path in folder.iterdir()}
    header = {
        "format": 1,
        "images": images,
        "identities": people,
        "shards": shards,
        "size": [side, side],
        "files": files,
    }
    (folder / "packed.json").write_text(json.dumps(header))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--loaded", action="store_true", help="other work runs beside it; the table says so")
    options = parser.parse_args()
    rows = []
    for images in options.images:
        with tempfile.TemporaryDirectory() as temporary:
            make_up(Path(temporary) / "packed", images)
            command = [sys.executable, "-c", OPENED, str(Path(temporary) / "packed")]
            words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        opened, held, shuffled, handles, maps = (float(word) for word in words)
        rows.append(
            {
                "images": images, "shards": -(-images // PER_SHARD), "to open, s": opened, "memory, MiB": held,
                "order of an epoch for one of 64 ranks, s": shuffled, "handles": int(handles), "maps after 50 batches": int(maps),
            }
        )  # fmt: skip
    write_results(
        "packed_scale",
        "Opening packed faces",
        rows,
        note=f"Made-up index, one process of 64; the machine was {'busy' if options.loaded else 'quiet'}.",
    )


if __name__ == "__main__":
    main()
