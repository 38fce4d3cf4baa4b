"""Registers the records in the JSON files of this folder; the registry imports this module on its first look-up."""

from __future__ import annotations

from pathlib import Path

from facezoo.weights.records import WEIGHTS, read_records

for _path in sorted(Path(__file__).parent.glob("*.json")):
    for _record in read_records(_path):
        WEIGHTS.register(_record.name, _record)
