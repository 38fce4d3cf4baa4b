"""Thin modules over :mod:`facezoo.ops`, and the small units that blocks are made of."""

from __future__ import annotations

from facezoo.layers.activation import MaxFeatureMap, create_activation
from facezoo.layers.cbam import CBAM, ChannelAttention, SpatialAttention
from facezoo.layers.conv_norm_act import ConvNormAct, DepthwiseConv, LinearNormAct, PointwiseConv
from facezoo.layers.drop_block import DropBlock2d
from facezoo.layers.efficient_channel_attention import EfficientChannelAttention, eca_kernel_size
from facezoo.layers.layer_scale import LayerScale2d
from facezoo.layers.norm import LayerNorm2d, create_norm2d
from facezoo.layers.pool import POOLS, GeMPool, GlobalDepthwiseConv, GlobalPool, create_pool
from facezoo.layers.squeeze_excite import SqueezeExcite, squeeze_width
from facezoo.layers.stochastic_depth import StochasticDepth, linear_drop_path_rates
from facezoo.layers.widths import round_channels

__all__ = [
    "CBAM",
    "POOLS",
    "ChannelAttention",
    "ConvNormAct",
    "DepthwiseConv",
    "DropBlock2d",
    "EfficientChannelAttention",
    "GeMPool",
    "GlobalDepthwiseConv",
    "GlobalPool",
    "LayerNorm2d",
    "LayerScale2d",
    "LinearNormAct",
    "MaxFeatureMap",
    "PointwiseConv",
    "SpatialAttention",
    "SqueezeExcite",
    "StochasticDepth",
    "create_activation",
    "create_norm2d",
    "create_pool",
    "eca_kernel_size",
    "linear_drop_path_rates",
    "round_channels",
    "squeeze_width",
]
