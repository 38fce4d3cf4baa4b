"""The network class and the families of specs. To add a family, add a file and a line here."""

from __future__ import annotations

from facezoo.models import (
    convnext,
    densenet,
    edgenext,
    efficientnet,
    ghostnet,
    inception_resnet,
    iresnet,
    lightcnn,
    mixfacenet,
    mobilefacenet,
    mobilenet,
    mobilenet_v3,
    published,
    regnet,
    repvgg,
    resnet,
    resnext,
    shufflenet,
    sphereface,
    swin,
    vgg,
    vit,
)
from facezoo.models.factory import MODELS, create_model, get_model_spec, is_model, list_models, register_model
from facezoo.models.network import Backbone, BackboneOptions, FaceNetwork, FeatureNetwork, NetworkOptions, Stage
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec, stage
from facezoo.preprocessing import Preprocessing

FAMILIES = (
    resnet,
    resnext,
    regnet,
    iresnet,
    convnext,
    densenet,
    vgg,
    inception_resnet,
    repvgg,
    mobilenet,
    mobilenet_v3,
    efficientnet,
    ghostnet,
    shufflenet,
    mobilefacenet,
    mixfacenet,
    edgenext,
    vit,
    swin,
    sphereface,
    lightcnn,
    published,
)

__all__ = [
    "FAMILIES",
    "MODELS",
    "Backbone",
    "BackboneOptions",
    "BlockSpec",
    "FaceNetwork",
    "FeatureNetwork",
    "HeadSpec",
    "ModelSpec",
    "NetworkOptions",
    "Preprocessing",
    "Stage",
    "StageSpec",
    "StemSpec",
    "create_model",
    "get_model_spec",
    "is_model",
    "list_models",
    "register_model",
    "stage",
]
