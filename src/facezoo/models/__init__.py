"""The one network class and the families of specs that it is built from. A new family is one file and one line here."""

from __future__ import annotations

from facezoo.models import (
    convnext,
    densenet,
    hw2p2,
    inception_resnet,
    iresnet,
    lightcnn,
    mobilefacenet,
    mobilenet,
    regnet,
    repvgg,
    resnet,
    resnext,
    sphereface,
    vgg,
)
from facezoo.models.factory import MODELS, create_model, get_model_spec, is_model, list_models, register_model
from facezoo.models.head import EmbeddingHead
from facezoo.models.network import Backbone, FaceNetwork, FeatureNetwork, Stage
from facezoo.models.spec import HeadSpec, ModelSpec, Preprocessing, StageSpec, StemSpec

FAMILIES = (
    resnet,
    resnext,
    iresnet,
    convnext,
    mobilenet,
    mobilefacenet,
    sphereface,
    lightcnn,
    inception_resnet,
    vgg,
    densenet,
    regnet,
    repvgg,
    hw2p2,
)

__all__ = [
    "FAMILIES",
    "MODELS",
    "Backbone",
    "EmbeddingHead",
    "FaceNetwork",
    "FeatureNetwork",
    "HeadSpec",
    "ModelSpec",
    "Preprocessing",
    "Stage",
    "StageSpec",
    "StemSpec",
    "create_model",
    "get_model_spec",
    "is_model",
    "list_models",
    "register_model",
]
