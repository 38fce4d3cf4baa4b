"""Blocks, stems and heads, by name. A block does not depend on the network around it."""

from __future__ import annotations

from facezoo.blocks._registry import BLOCKS, block_accepts, check_block, create_block, register_block
from facezoo.blocks.attention import ATTENTIONS, create_attention, register_attention
from facezoo.blocks.convnext import ConvNeXtBlock, PatchMerge, PatchStem
from facezoo.blocks.dense import DenseBlock
from facezoo.blocks.edgenext import SplitTransposeAttention
from facezoo.blocks.ghost import GhostBottleneck, GhostModule
from facezoo.blocks.heads import HEADS, Head, check_head, create_head, register_head
from facezoo.blocks.improved_residual import IRBlock, IRBottleneck
from facezoo.blocks.inception import InceptionReduction, InceptionResidual, InceptionStem
from facezoo.blocks.inverted_residual import InvertedResidual
from facezoo.blocks.max_feature_map import MaxFeatureGroup, MaxFeatureResidual, MaxFeatureStem
from facezoo.blocks.mix import MixBlock, MixConvNormAct
from facezoo.blocks.plain import ConvBlock, ConvPool, ConvStem, DeepStem
from facezoo.blocks.regnet import RegNetYBlock
from facezoo.blocks.repvgg import RepVGGBlock
from facezoo.blocks.residual import BasicBlock, Bottleneck, create_shortcut, projection_shortcut
from facezoo.blocks.shuffle import ShuffleUnit
from facezoo.blocks.sphere import SphereBlock
from facezoo.blocks.swin import SwinBlock, SwinMerge
from facezoo.blocks.transformer import TokenStem, TransformerBlock

__all__ = [
    "ATTENTIONS",
    "BLOCKS",
    "HEADS",
    "BasicBlock",
    "Bottleneck",
    "ConvBlock",
    "ConvNeXtBlock",
    "ConvPool",
    "ConvStem",
    "DeepStem",
    "DenseBlock",
    "GhostBottleneck",
    "GhostModule",
    "Head",
    "IRBlock",
    "IRBottleneck",
    "InceptionReduction",
    "InceptionResidual",
    "InceptionStem",
    "InvertedResidual",
    "MaxFeatureGroup",
    "MaxFeatureResidual",
    "MaxFeatureStem",
    "MixBlock",
    "MixConvNormAct",
    "PatchMerge",
    "PatchStem",
    "RegNetYBlock",
    "RepVGGBlock",
    "ShuffleUnit",
    "SphereBlock",
    "SplitTransposeAttention",
    "SwinBlock",
    "SwinMerge",
    "TokenStem",
    "TransformerBlock",
    "block_accepts",
    "check_block",
    "check_head",
    "create_attention",
    "create_block",
    "create_head",
    "create_shortcut",
    "projection_shortcut",
    "register_attention",
    "register_block",
    "register_head",
]
