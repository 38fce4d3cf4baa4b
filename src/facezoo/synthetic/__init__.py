"""SyntheticFaces: procedurally drawn faces, for demonstrations, tests and benchmarks without photographs."""

from facezoo.synthetic.dataset import SyntheticFaces
from facezoo.synthetic.head import ARCFACE_TEMPLATE
from facezoo.synthetic.parameters import (
    LFW_IDENTITIES,
    TRAINING_IDENTITIES,
    VERIFICATION_IDENTITIES,
    Conditions,
    Identity,
    sample_conditions,
    sample_identity,
)
from facezoo.synthetic.render import render_face
from facezoo.synthetic.writing import SyntheticFacesError, write_synthetic_faces

__all__ = [
    "ARCFACE_TEMPLATE",
    "LFW_IDENTITIES",
    "TRAINING_IDENTITIES",
    "VERIFICATION_IDENTITIES",
    "Conditions",
    "Identity",
    "SyntheticFaces",
    "SyntheticFacesError",
    "render_face",
    "sample_conditions",
    "sample_identity",
    "write_synthetic_faces",
]
