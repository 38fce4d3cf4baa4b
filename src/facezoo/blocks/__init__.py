"""Building blocks and stems, by name. A block says its own stride, width and shortcut, nothing about the network around it."""

from __future__ import annotations

from facezoo.blocks._registry import BLOCKS, block_accepts, create_block, register_block
from facezoo.blocks.attention import create_attention
from facezoo.blocks.convnext import ConvNeXtBlock, PatchMerge, PatchStem
from facezoo.blocks.edgenext import SplitTransposeAttention
from facezoo.blocks.ghost import GhostBottleneck, GhostModule
from facezoo.blocks.improved_residual import IRBlock
from facezoo.blocks.inverted_residual import InvertedResidual
from facezoo.blocks.mix import MixBlock, MixConvNormAct
from facezoo.blocks.plain import ConvBlock, ConvStem
from facezoo.blocks.residual import BasicBlock, Bottleneck, projection_shortcut
from facezoo.blocks.shuffle import ShuffleUnit
from facezoo.blocks.swin import SwinBlock, SwinMerge
from facezoo.blocks.transformer import TokenStem, TransformerBlock

__all__ = [
    "BLOCKS",
    "BasicBlock",
    "Bottleneck",
    "ConvBlock",
    "ConvNeXtBlock",
    "ConvStem",
    "GhostBottleneck",
    "GhostModule",
    "IRBlock",
    "InvertedResidual",
    "MixBlock",
    "MixConvNormAct",
    "PatchMerge",
    "PatchStem",
    "ShuffleUnit",
    "SplitTransposeAttention",
    "SwinBlock",
    "SwinMerge",
    "TokenStem",
    "TransformerBlock",
    "block_accepts",
    "create_attention",
    "create_block",
    "projection_shortcut",
    "register_block",
]
