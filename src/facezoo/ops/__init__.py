"""Pure functions on tensors. They import nothing else of facezoo; the modules in :mod:`facezoo.layers` are thin wrappers."""

from __future__ import annotations

from facezoo.ops.channel_shuffle import channel_shuffle
from facezoo.ops.checks import NonFiniteError, check_finite
from facezoo.ops.drop_block import drop_block
from facezoo.ops.folding import batch_norm_affine, bias_map, fold_after, fold_before
from facezoo.ops.gather import gather_with_gradient
from facezoo.ops.max_feature_map import max_feature_map
from facezoo.ops.normalization import global_response_norm
from facezoo.ops.pooling import generalized_mean_pool
from facezoo.ops.positions import resize_grid
from facezoo.ops.stochastic_depth import drop_path

__all__ = [
    "NonFiniteError",
    "batch_norm_affine",
    "bias_map",
    "channel_shuffle",
    "check_finite",
    "drop_block",
    "drop_path",
    "fold_after",
    "fold_before",
    "gather_with_gradient",
    "generalized_mean_pool",
    "global_response_norm",
    "max_feature_map",
    "resize_grid",
]
