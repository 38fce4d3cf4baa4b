"""Modules that have moved."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from facezoo.moved import MODULES


@pytest.mark.parametrize("old", sorted(MODULES))
def test_an_old_module_says_the_new_one(old: str) -> None:
    new = MODULES[old]
    with pytest.raises(ModuleNotFoundError, match=f"{old} has moved; its contents are in {new}$"):
        importlib.import_module(old)
    importlib.import_module(new)


def test_other_missing_modules_are_left_alone() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("facezoo.nothing")


def test_the_starter_network_is_found_by_its_name_alone() -> None:
    code = (
        "import sys, facezoo.models; assert 'facezoo.courses' not in sys.modules; "
        "from facezoo.models import MODELS; print(MODELS['hw2p2_cnn'].family)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "hw2p2\n"
