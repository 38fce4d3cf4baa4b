"""The block of RepVGG: three branches in training, one convolution in deployment. 2101.03697."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, ConvNormAct, create_activation
from facezoo.ops.folding import batch_norm_affine, fold_after


@register_block("repvgg")
class RepVGGBlock(nn.Module):
    """3×3, 1×1 and (if the shapes allow it) identity, each with batch norm, summed; then an activation.

    :meth:`reparameterise` replaces the three by one equivalent 3×3 convolution.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        stride: step of both convolutions.
        dilation: dilation of the 3×3 convolution.
        groups: groups of both convolutions.
        act: activation.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: ActivationName = "relu",
    ) -> None:
        super().__init__()
        self.conv3 = ConvNormAct(in_chans, out_chans, 3, stride=stride, dilation=dilation, groups=groups, act="none")
        self.conv1 = ConvNormAct(in_chans, out_chans, 1, stride=stride, groups=groups, act="none")
        self.identity = nn.BatchNorm2d(out_chans) if stride == 1 and in_chans == out_chans else None
        self.merged: nn.Conv2d | None = None
        self.act = create_activation(act, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        if self.merged is not None:
            return self.act(self.merged(x))
        branches = self.conv3(x) + self.conv1(x)
        return self.act(branches if self.identity is None else branches + self.identity(x))

    @torch.no_grad()
    def reparameterise(self) -> None:
        """Replace the branches by one convolution that is equivalent in evaluation mode. A second call does nothing.

        The state dict then has ``merged.weight`` and ``merged.bias`` only.

        Raises:
            RuntimeError: the block is in training mode, in which its norms use batch statistics.
        """
        if self.merged is not None:
            return
        if self.training:
            raise RuntimeError("only a block in evaluation mode can be merged: call model.eval() first")
        old = self.conv3.conv
        weight, bias = _folded(old.weight, self.conv3.norm)
        small, small_bias = _folded(self.conv1.conv.weight, self.conv1.norm)
        weight, bias = weight + F.pad(small, (1, 1, 1, 1)), bias + small_bias
        if self.identity is not None:
            same, same_bias = _folded(_identity_kernel(old), self.identity)
            weight, bias = weight + same, bias + same_bias
        self.merged = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            3,
            stride=old.stride,  # type: ignore[arg-type]
            padding=old.padding,  # type: ignore[arg-type]
            dilation=old.dilation,  # type: ignore[arg-type]
            groups=old.groups,
            device=old.weight.device,
            dtype=old.weight.dtype,
        ).eval()
        self.merged.weight.copy_(weight)
        assert self.merged.bias is not None
        self.merged.bias.copy_(bias)
        del self.conv3, self.conv1
        self.identity = None


def _folded(weight: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of a convolution without bias followed by ``norm`` in evaluation mode."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    affine = batch_norm_affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    return fold_after(weight, None, *affine)


def _identity_kernel(conv: nn.Conv2d) -> Tensor:
    """The 3×3 identity kernel with the shape of ``conv``'s weight."""
    kernel = torch.zeros_like(conv.weight)
    channels = torch.arange(conv.out_channels, device=kernel.device)
    kernel[channels, channels % (conv.in_channels // conv.groups), 1, 1] = 1.0
    return kernel
