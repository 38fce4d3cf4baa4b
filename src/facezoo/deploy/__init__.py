"""Deployment of trained networks: folding batch norms, export to other runtimes, 8-bit quantization."""

from __future__ import annotations

from facezoo.deploy.exporting import ExportError, ExportReport, export
from facezoo.deploy.fusing import FusedFaceNetwork, FusedFeatureNetwork, fuse, remaining_norms
from facezoo.deploy.networks import TrainedNetwork, load_trained, open_network
from facezoo.deploy.recognition import RecognitionDrop, compare_recognition
from facezoo.deploy.runtime import ExportedNetwork

__all__ = [
    "ExportError",
    "ExportReport",
    "ExportedNetwork",
    "FusedFaceNetwork",
    "FusedFeatureNetwork",
    "RecognitionDrop",
    "TrainedNetwork",
    "compare_recognition",
    "export",
    "fuse",
    "load_trained",
    "open_network",
    "remaining_norms",
]
