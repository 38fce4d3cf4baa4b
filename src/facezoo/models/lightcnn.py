"""Light CNN of 9 and 29 layers, 1511.02683: max-feature-maps instead of ReLU, no norm.

Published for gray images of 128×128 pixels and an embedding of 256: ``in_chans=1, img_size=128, embedding_dim=256``. The paper
has dropout between embedding and classifier; here there is none, since a margin head may follow.

``lightcnn29_v2`` is the later network of the authors' code: every pool adds the mean to the maximum, and the embedding is linear,
without max-feature-map. Their classifier for it has no bias; here it has one, 0 where their weights are loaded.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec, stage

MAX_FEATURE_MAP = HeadSpec("linear", {"bias": True, "act": "mfm", "norm": "none"}, global_pool="flatten")
LINEAR = HeadSpec("linear", {"bias": True, "norm": "none"}, global_pool="flatten")


def _register(
    name: str, description: str, strides: tuple[int, ...], stages: tuple[StageSpec, ...], pool: str, head: HeadSpec
) -> None:
    register_model(
        ModelSpec(
            name=name,
            family="lightcnn",
            stems={"face": StemSpec("mfm_stem", width=48, stride=2, stage_strides=strides, options={"pool": pool})},
            stages=stages,
            head=head,
            init="lightcnn",
            paper="1511.02683",
            description=description,
        )
    )


def _residual(depth: int, width: int, pool: str) -> StageSpec:
    return stage("mfm_residual", depth, width, transition=BlockSpec("mfm_group", options={"pool": pool}))


_register(
    "lightcnn9",
    "Light CNN of 9 layers",
    (2, 2, 1, 2),
    tuple(stage("mfm_group", 1, width) for width in (96, 192, 128, 128)),
    "max",
    MAX_FEATURE_MAP,
)
for _name, _description, _pool, _head in (
    ("lightcnn29", "Light CNN of 29 layers", "max", MAX_FEATURE_MAP),
    ("lightcnn29_v2", "Light CNN of 29 layers, pools of maximum plus mean, linear embedding", "max_plus_mean", LINEAR),
):
    _residuals = (_residual(depth, width, _pool) for depth, width in ((1, 48), (2, 96), (3, 192), (4, 128)))
    _last = stage("mfm_group", 1, 128, {"pool": _pool})
    _register(_name, _description, (1, 2, 2, 1, 2), (*_residuals, _last), _pool, _head)
