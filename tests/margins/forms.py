"""One example of each registered form of the negatives, for the tests that run over all of them."""

from __future__ import annotations

from functools import partial

from facezoo.margins import NEGATIVES

_CONSTANTS = {
    "identity": {},
    "hard_affine": {"factor": 1.2, "shift": 0.25},
    "hard_quadratic": {},
    "gaussian": {"height": 1.2, "width": 2.0},
    "circle": {"margin": 0.25},
    "filter": {"limit": 0.5},
    "power": {"power": 3.0, "margin": 0.4},
    "power_detached": {"power": 3.0, "margin": 0.4},
    "wide_angle": {"factor": 1.7},
    "wide_angle_detached": {"factor": 1.7},
}
# name -> a call that makes it, with the reduction where one is given
EXAMPLES = {name: partial(NEGATIVES[name], **constants) for name, constants in _CONSTANTS.items()}
