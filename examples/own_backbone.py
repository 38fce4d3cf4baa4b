"""A backbone of your own: a block, and a network made of it. Then everything that works by name knows it.

    python examples/own_backbone.py
    facezoo --import own_backbone train path/to/faces --model wide_net          # from this folder

An installed package that names its module under the entry point `facezoo.plugins` needs no `--import`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import facezoo
from facezoo.models import HeadSpec, ModelSpec, StemSpec, is_model, stage


class WideBlock(nn.Module):
    """A depthwise convolution of 7 pixels between two pointwise ones, with a shortcut where the shape allows it.

    Args:
        in_chans: channels of the map that comes in.
        out_chans: channels of the map that goes out.
        stride: of the depthwise convolution.
        expansion: width in the middle, in units of ``out_chans``; a stage may say another one.
    """

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1, expansion: int = 2) -> None:
        super().__init__()
        width = expansion * out_chans
        self.shortcut = stride == 1 and in_chans == out_chans
        self.layers = nn.Sequential(
            nn.Conv2d(in_chans, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 7, stride, 3, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, out_chans, 1, bias=False),
            nn.BatchNorm2d(out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H / stride, W / stride)``."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


if not is_model("wide_net"):
    facezoo.register_block("wide")(WideBlock)
    facezoo.register_model(
        ModelSpec(
            name="wide_net",
            family="wide",
            stems={"face": StemSpec("conv_stem", width=32, stride=2, stage_strides=(1, 2, 2))},
            stages=(
                stage("wide", 2, 32),
                stage("wide", 4, 64),
                stage("wide", 2, 128, options={"expansion": 3}),
            ),
            head=HeadSpec(),
            init="mobilefacenet",
            paper="unpublished",
            description="wide depthwise filters, as an example",
        )
    )


def main() -> Tensor:
    """Build it, count it, embed two images."""
    profile = facezoo.profile_model("wide_net")
    print(f"wide_net: {profile.params:,} parameters, {profile.macs / 1e6:.0f} million multiply-accumulates per image")
    model = facezoo.create_model("wide_net", embedding_dim=128).eval()
    with torch.inference_mode():
        embeddings: Tensor = model.embed(torch.randn(2, 3, 112, 112))
    print(f"embeddings {tuple(embeddings.shape)}")
    return embeddings


if __name__ == "__main__":
    main()
