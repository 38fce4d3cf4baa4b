from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facezoo.checks import is_real, is_whole
from facezoo.columns import aligned
from facezoo.devices import resolve_device


@pytest.mark.parametrize(
    ("value", "whole", "real"),
    [
        (3, True, True),
        (0, True, True),
        (-1, True, True),
        (2.0, False, True),
        (True, False, False),
        (False, False, False),
        (math.nan, False, False),
        (math.inf, False, False),
        ("3", False, False),
        (None, False, False),
        (np.float32(1), False, False),
    ],
)
def test_what_is_a_number(value, whole, real):
    assert (is_whole(value), is_real(value)) == (whole, real)
    assert not is_whole(value, 4)


def test_columns():
    rows = [("name", "value", ""), ("a", "10,000", "x"), ("long name", "7", "")]
    assert aligned(rows) == ["name       value", "a          10,000  x", "long name  7"]
    assert aligned(rows, right=True) == ["name        value", "a          10,000  x", "long name       7"]
    assert aligned([]) == []
    with pytest.raises(ValueError, match="argument"):
        aligned([("a",), ("a", "b")])


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    for name, told in (("cuda:1", "sees no CUDA device"), ("gpu", "device 'gpu'"), ("x" * 5000, "x" * 200 + "'")):
        with pytest.raises(ValueError, match=told) as caught:
            resolve_device(name)
        assert len(str(caught.value)) < 600
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="only 2 CUDA devices"):
        resolve_device("cuda:2")
