"""Models by name: the registry, :func:`create_model`, and functions that list and find models."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Literal, cast, overload

from typing_extensions import Unpack

from facezoo.checks import whole
from facezoo.counting import count_macs, parameters_of, without_storage
from facezoo.models.init import build_initialized, drawing_only
from facezoo.models.network import (
    DEFAULTS,
    OF_THE_HEAD,
    BackboneOptions,
    FaceNetwork,
    FeatureNetwork,
    NetworkOptions,
    complete,
)
from facezoo.models.pretrained import with_weights
from facezoo.models.spec import ModelSpec
from facezoo.registry import Registry, UnknownNameError
from facezoo.weights import list_weights, load_checkpoint

# Names that insightface, AdaFace and others use.
_ELSEWHERE = {
    "mbf": "mobilefacenet",
    "mbf_large": "mobilefacenet_large",
    "mobile_face_net": "mobilefacenet",
    **{f"{prefix}r{depth}": f"iresnet{depth}" for prefix in ("", "arcface_") for depth in (18, 34, 50, 100, 200)},
    **{f"adaface_ir{depth}": f"ir_{depth}" for depth in (18, 34, 50, 101)},
    **{f"ir{depth}": f"ir_{depth}" for depth in (18, 34, 50, 101)},
    "inceptionresnetv1": "inception_resnet_v1",
    "facenet": "inception_resnet_v1",
}
MODELS: Registry[ModelSpec] = Registry(
    "model",
    listed_by="facezoo.list_models()",
    elsewhere=_ELSEWHERE,
    also_in=("facezoo.courses.starter_network",),
)


def register_model(spec: ModelSpec) -> ModelSpec:
    """Register ``spec`` under its own name, and return it.

    A third-party package calls this for its networks, and :func:`facezoo.register_block` for its blocks.

    Raises:
        DuplicateNameError: another spec has that name.
    """
    return MODELS.register(spec.name, spec)


def is_model(name: str) -> bool:
    """Whether :func:`create_model` knows ``name``."""
    return name in MODELS


def get_model_spec(name: str) -> ModelSpec:
    """The frozen record of the model called ``name``. Raises ``UnknownNameError`` with close names if there is none."""
    return MODELS[name]


def list_models(
    pattern: str | Iterable[str] = "*",
    *,
    exclude: str | Iterable[str] = (),
    family: str | None = None,
    max_params: float | None = None,
    max_macs: float | None = None,
    num_classes: int = 0,
    embedding_dim: int | None = 512,
    stem: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """Names of models, in natural order.

    Args:
        pattern: wildcards, one or several; a name that matches any of them is listed.
        exclude: wildcards of names to leave out.
        family: only this family (``"resnet"``, ``"convnext"``, …).
        max_params: only models with at most this number of parameters, including classifier and embedding.
        max_macs: only models with at most this number of multiply-accumulates for one 112×112 image, likewise.
        num_classes: number of classes of the classifier that is counted.
        embedding_dim: width of the embedding that is counted; None for no embedding layer.
        stem: only models with this stem, which is used for counting (default ``"face"``).
        pretrained: only models with registered weights.

    Raises:
        ValueError: a number of classes that is none.
    """
    names = [
        name
        for name in MODELS.list(pattern, exclude=exclude)
        if (family is None or MODELS[name].family == family) and (stem is None or stem in MODELS[name].stems)
    ]
    if pretrained:
        with_weights = {record.model for record in list_weights()}
        names = [name for name in names if name in with_weights]
    if max_params is None and max_macs is None:
        return names
    form = (whole("num_classes", num_classes, 0), embedding_dim, stem or "face")
    return [
        name
        for name in names
        if form[-1] in MODELS[name].stems
        and (max_params is None or count_parameters(MODELS[name], *form) <= max_params)
        and (max_macs is None or count_multiplications(MODELS[name], *form) <= max_macs)
    ]


@overload  # with all defaults, for editors that do not resolve a typed dictionary; a test compares both lists
def create_model(
    name: str,
    *,
    num_classes: int = 0,
    embedding_dim: int | None = 512,
    stem: str = "face",
    in_chans: int = 3,
    img_size: int | Sequence[int] = 112,
    global_pool: str | None = None,
    output_stride: int | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    drop_block_rate: float = 0.0,
    features_only: Literal[False] = False,
    pretrained: bool | str = False,
    checkpoint_path: str | PathLike[str] | None = None,
) -> FaceNetwork: ...
@overload
def create_model(
    name: str,
    *,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
    pretrained: bool | str = False,
    checkpoint_path: str | PathLike[str] | None = None,
    **options: Unpack[BackboneOptions],
) -> FeatureNetwork: ...
@overload
def create_model(
    name: str,
    *,
    features_only: bool,
    out_indices: Sequence[int] | None = None,
    pretrained: bool | str = False,
    checkpoint_path: str | PathLike[str] | None = None,
    **options: Unpack[NetworkOptions],
) -> FaceNetwork | FeatureNetwork: ...
def create_model(
    name: str,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained: bool | str = False,
    checkpoint_path: str | PathLike[str] | None = None,
    **options: Unpack[NetworkOptions],
) -> FaceNetwork | FeatureNetwork:
    """Build the network called ``name``.

    Args:
        name: a name from :func:`list_models`; or ``"hf-hub:owner/name"`` or ``"local-dir:path"``, a repository or a folder
            written by :func:`facezoo.weights.push_to_hub` or ``save_pretrained``. Arguments that you omit are then taken
            from the weights, as with ``pretrained``. If an argument differs from the weights', the affected part (classifier,
            embedding, stem) has random weights.
        num_classes: classes of the linear classifier after the embedding; 0 for none: ``model(x)`` is then the embedding.
        embedding_dim: width of the embedding; None for none: the classifier then takes the pooled features, as in the published
            ImageNet networks.
        stem: ``"face"`` (112×112 ends in a 7×7 map) or ``"imagenet"`` (the published stem).
        in_chans: channels of the images.
        img_size: side, or height and width, in pixels. Networks whose head has weights per position (IResNet, MobileFaceNet)
            accept only this size; it is also recorded in ``model.preprocessing``.
        global_pool: ``"avg"``, ``"max"``, ``"avgmax"``, ``"gem"``, ``"gdc"`` or ``"flatten"``; None for the network's own.
        output_stride: pixels per cell of the last map, below the network's own value; later stages are dilated instead.
        drop_rate: probability of the dropout before the embedding (or classifier); None for the network's own.
        drop_path_rate: stochastic depth: probability of dropping the last block; grows linearly from 0 at the first.
        drop_block_rate: DropBlock: fraction of activations dropped in the last stage, a quarter of it in the one before.
        features_only: build a :class:`FeatureNetwork`, which returns the maps after the stages ``out_indices``.
        out_indices: stages from 0, negative ones from the end; None for all. Only with ``features_only``.
        pretrained: True for the model's registered weights, or their tag if there are several; see
            :func:`facezoo.weights.list_weights`. Only those of kind ``"drawn"`` were trained by facezoo.
        checkpoint_path: file whose weights to load, see :func:`facezoo.load_checkpoint`.

    Returns:
        A :class:`FaceNetwork`, or a :class:`FeatureNetwork` with ``features_only``, in training mode.

    Raises:
        UnknownNameError: an unknown model; the message suggests close names.
        ValueError: an argument is out of range or does not apply; no registered weights.
        CheckpointError: the weights cannot be downloaded, differ from the published ones, or do not match the network.
    """
    if str(name).startswith(("hf_hub:", "hf-hub/", "local_dir:")):
        raise UnknownNameError(
            f"unknown model {name!r:.100}; write 'hf-hub:owner/name' or 'local-dir:path', with a hyphen and a colon"
        )
    build = functools.partial(_build, features_only=features_only, out_indices=out_indices)
    if pretrained or ":" in str(name):  # a registered name has no colon
        if checkpoint_path is not None:
            raise ValueError("the weights come from checkpoint_path, or from pretrained or a repository; not from both")
        return with_weights(get_model_spec, build, name, pretrained, options, without_head=features_only)
    if checkpoint_path is None:
        return build(MODELS[name], options)
    with drawing_only(()):
        model = build(MODELS[name], options)
    load_checkpoint(model, checkpoint_path)
    return model


def _shown_signature() -> inspect.Signature:
    """The signature of :func:`create_model` with all options and defaults, for ``help()``. Editors use the typed dictionary."""
    written = inspect.signature(create_model)
    named = [entry for entry in written.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD]
    kinds = {**BackboneOptions.__annotations__, **NetworkOptions.__annotations__}
    for name, default in DEFAULTS.items():
        hint = getattr(kinds[name], "__forward_arg__", kinds[name])
        named.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    return written.replace(parameters=named)


create_model.__signature__ = _shown_signature()  # type: ignore[attr-defined]


def _build(
    spec: ModelSpec, options: NetworkOptions, *, features_only: bool, out_indices: Sequence[int] | None
) -> FaceNetwork | FeatureNetwork:
    if not features_only:
        if out_indices is not None:
            raise ValueError("out_indices goes with features_only=True")
        return build_initialized(lambda: FaceNetwork(spec, **options), spec.init)
    defaults = cast(dict[str, object], DEFAULTS)
    if any(options.get(name) not in (None, defaults[name]) for name in OF_THE_HEAD):
        raise ValueError("features_only has no head: leave out num_classes, embedding_dim, global_pool and drop_rate")
    complete(options)  # raises an error that names a misspelled argument
    backbone = {key: value for key, value in options.items() if key in BackboneOptions.__annotations__}
    own = cast(BackboneOptions, backbone)
    return build_initialized(lambda: FeatureNetwork(spec, out_indices=out_indices, **own), spec.init)


def count_parameters(spec: ModelSpec, num_classes: int = 0, embedding_dim: int | None = 512, stem: str = "face") -> int:
    """Number of parameters of the network with this ``spec`` and these arguments of :func:`create_model`, without building it."""
    without_classifier, _, width = _measure(spec, embedding_dim, stem, macs=False)
    return without_classifier + (width + 1) * num_classes


def count_multiplications(
    spec: ModelSpec, num_classes: int = 0, embedding_dim: int | None = 512, stem: str = "face"
) -> int:
    """Multiply-accumulates of that network for one 112×112 image, as counted by :func:`facezoo.profile_model`."""
    _, without_classifier, width = _measure(spec, embedding_dim, stem, macs=True)
    return without_classifier + width * num_classes


@functools.cache
def _measure(spec: ModelSpec, embedding_dim: int | None, stem: str, *, macs: bool) -> tuple[int, int, int]:
    """Parameters and (if ``macs``) MACs without classifier, and the input width of a classifier.

    Equal consecutive blocks are built once and counted with their number; at the start of a stage two are built, since the
    first may change stride and width.
    """
    built = tuple(
        replace(
            stage,
            blocks=tuple(replace(row, depth=min(row.depth, 2 - (place > 0))) for place, row in enumerate(stage.blocks)),
        )
        for stage in spec.stages
    )
    with without_storage():
        model = FaceNetwork(replace(spec, stages=built), embedding_dim=embedding_dim, stem=stem)
    params, multiplications = parameters_of(model), count_macs(model) if macs else {"": 0}
    total = multiplications[""]
    for index, (stage, part) in enumerate(zip(spec.stages, built, strict=True)):
        last = -1
        for row, once in zip(stage.blocks, part.blocks, strict=True):
            last += once.depth
            repeated, name = row.depth - once.depth, f"stages.{index}.blocks.{last}"
            params += repeated * parameters_of(model.get_submodule(name))
            total += repeated * multiplications.get(name, 0)
    return params, total, model.embedding_dim
