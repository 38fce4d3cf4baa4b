"""Thin modules over :mod:`facezoo.ops`, and small units for blocks."""

from __future__ import annotations

from facezoo.layers.activation import ACTIVATIONS, ActivationName, MaxFeatureMap, create_activation, register_activation
from facezoo.layers.attention import SelfAttention, WindowAttention
from facezoo.layers.border_bias import BorderBiasConv2d
from facezoo.layers.cbam import CBAM, ChannelAttention, SpatialAttention
from facezoo.layers.conv_norm_act import ConvNormAct, DepthwiseConv, LinearNormAct, PointwiseConv
from facezoo.layers.cross_covariance import CrossCovarianceAttention, FourierPositions
from facezoo.layers.drop_block import DropBlock2d
from facezoo.layers.efficient_channel_attention import EfficientChannelAttention, eca_kernel_size
from facezoo.layers.layer_scale import LayerScale, LayerScale2d
from facezoo.layers.low_rank import LowRankLinear, create_linear
from facezoo.layers.norm import (
    NORMS,
    VECTOR_NORMS,
    GlobalResponseNorm,
    LayerNorm2d,
    NormName,
    VectorNormName,
    create_norm2d,
    register_norm,
    register_vector_norm,
)
from facezoo.layers.pool import POOLS, GeMPool, GlobalDepthwiseConv, GlobalPool, create_pool, register_pool
from facezoo.layers.squeeze_excite import SqueezeExcite, squeeze_width
from facezoo.layers.stochastic_depth import StochasticDepth, linear_drop_path_rates
from facezoo.layers.tokens import TokenSequence
from facezoo.layers.widths import round_channels

__all__ = [
    "ACTIVATIONS",
    "CBAM",
    "NORMS",
    "POOLS",
    "VECTOR_NORMS",
    "ActivationName",
    "BorderBiasConv2d",
    "ChannelAttention",
    "ConvNormAct",
    "CrossCovarianceAttention",
    "DepthwiseConv",
    "DropBlock2d",
    "EfficientChannelAttention",
    "FourierPositions",
    "GeMPool",
    "GlobalDepthwiseConv",
    "GlobalPool",
    "GlobalResponseNorm",
    "LayerNorm2d",
    "LayerScale",
    "LayerScale2d",
    "LinearNormAct",
    "LowRankLinear",
    "MaxFeatureMap",
    "NormName",
    "PointwiseConv",
    "SelfAttention",
    "SpatialAttention",
    "SqueezeExcite",
    "StochasticDepth",
    "TokenSequence",
    "VectorNormName",
    "WindowAttention",
    "create_activation",
    "create_linear",
    "create_norm2d",
    "create_pool",
    "eca_kernel_size",
    "linear_drop_path_rates",
    "register_activation",
    "register_norm",
    "register_pool",
    "register_vector_norm",
    "round_channels",
    "squeeze_width",
]
