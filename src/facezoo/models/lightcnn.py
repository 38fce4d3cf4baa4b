"""Light CNN of 9 and 29 layers, 1511.02683: max-feature-maps instead of ReLU, no norm.

Published for grey images of 128×128 pixels and an embedding of 256: ``in_chans=1, img_size=128, embedding_dim=256``. The paper has
its dropout between embedding and classifier; here, where a margin head may follow, there is none.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec


def _register(layers: int, strides: tuple[int, ...], stages: tuple[StageSpec, ...]) -> None:
    register_model(
        ModelSpec(
            name=f"lightcnn{layers}",
            family="lightcnn",
            stems={"face": StemSpec("mfm_stem", width=48, stride=2, stage_strides=strides)},
            stages=stages,
            head=HeadSpec(global_pool="flatten", embedding_bias=True, embedding_act="mfm", embedding_norm="none"),
            init="lightcnn",
            paper="1511.02683",
            description=f"Light CNN of {layers} layers",
        )
    )


def _residual(depth: int, width: int) -> StageSpec:
    return StageSpec("mfm_residual", depth, width, transition="mfm_group")


_register(9, (2, 2, 1, 2), tuple(StageSpec("mfm_group", 1, width) for width in (96, 192, 128, 128)))
_register(
    29,
    (1, 2, 2, 1, 2),
    (_residual(1, 48), _residual(2, 96), _residual(3, 192), _residual(4, 128), StageSpec("mfm_group", 1, 128)),
)
