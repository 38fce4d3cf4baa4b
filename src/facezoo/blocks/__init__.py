"""Building blocks and stems, by name. A block says its own stride, width and shortcut, nothing about the network around it."""

from __future__ import annotations

from facezoo.blocks._registry import BLOCKS, block_accepts, create_block, register_block
from facezoo.blocks.attention import create_attention
from facezoo.blocks.convnext import ConvNeXtBlock, PatchMerge, PatchStem
from facezoo.blocks.improved_residual import IRBlock, IRBottleneck
from facezoo.blocks.inverted_residual import InvertedResidual
from facezoo.blocks.plain import ConvBlock, ConvStem, DeepStem
from facezoo.blocks.residual import BasicBlock, Bottleneck, create_shortcut, projection_shortcut

__all__ = [
    "BLOCKS",
    "BasicBlock",
    "Bottleneck",
    "ConvBlock",
    "ConvNeXtBlock",
    "ConvStem",
    "DeepStem",
    "IRBlock",
    "IRBottleneck",
    "InvertedResidual",
    "PatchMerge",
    "PatchStem",
    "block_accepts",
    "create_attention",
    "create_block",
    "create_shortcut",
    "projection_shortcut",
    "register_block",
]
