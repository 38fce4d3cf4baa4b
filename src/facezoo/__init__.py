"""facezoo: the face-recognition model zoo for PyTorch.

    model = facezoo.create_model("se_resnet50")
    head = facezoo.create_margin("arcface", embedding_dim=512, num_classes=8631)
    loss = head(model.embed(images), labels)

Public names are imported on first use: ``import facezoo`` loads nothing else, torch included.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from facezoo._version import __version__
from facezoo.moved import point_out_moves

if TYPE_CHECKING:
    from facezoo import (
        blocks,
        courses,
        data,
        deploy,
        evaluation,
        layers,
        losses,
        margins,
        models,
        ops,
        synthetic,
        training,
        weights,
    )
    from facezoo.blocks import register_block
    from facezoo.deploy import export, fuse
    from facezoo.losses import create_loss, list_losses, register_loss
    from facezoo.margins import create_margin, list_margins, register_margin
    from facezoo.models import create_model, is_model, list_models, register_model
    from facezoo.profile import profile_model
    from facezoo.weights import load_checkpoint, register_weights

_EXPORTS = {
    "create_model": "models",
    "is_model": "models",
    "list_models": "models",
    "register_model": "models",
    "profile_model": "profile",
    "create_margin": "margins",
    "list_margins": "margins",
    "register_margin": "margins",
    "create_loss": "losses",
    "list_losses": "losses",
    "register_loss": "losses",
    "register_block": "blocks",
    "load_checkpoint": "weights",
    "register_weights": "weights",
    "fuse": "deploy",
    "export": "deploy",
}
_SUBPACKAGES = (
    "blocks",
    "courses",
    "data",
    "deploy",
    "evaluation",
    "layers",
    "losses",
    "margins",
    "models",
    "ops",
    "synthetic",
    "training",
    "weights",
)

__all__ = [
    "__version__",
    "blocks",
    "courses",
    "create_loss",
    "create_margin",
    "create_model",
    "data",
    "deploy",
    "evaluation",
    "export",
    "fuse",
    "is_model",
    "layers",
    "list_losses",
    "list_margins",
    "list_models",
    "load_checkpoint",
    "losses",
    "margins",
    "models",
    "ops",
    "profile_model",
    "register_block",
    "register_loss",
    "register_margin",
    "register_model",
    "register_weights",
    "synthetic",
    "training",
    "weights",
]


point_out_moves()


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(f"facezoo.{_EXPORTS[name]}"), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"facezoo.{name}")
    else:
        raise AttributeError(f"module 'facezoo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
