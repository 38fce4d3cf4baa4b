"""From the last map to the embedding."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.layers import ConvNormAct, create_pool
from facezoo.models.spec import HeadSpec


class EmbeddingHead(nn.Module):
    """Conv, norm, pool, norm, dropout, linear, norm – each where the spec has it.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells; pools that learn one weight per position need it.
        spec: what the head consists of.
        embedding_dim: width of the embedding; None leaves the linear layer and its norm out.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout.

    Attributes:
        out_features: width of what :meth:`forward` returns.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        spec: HeadSpec,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.map_size = map_size
        self.fixed_map = global_pool in ("gdc", "flatten")
        chans = in_chans if spec.conv_width is None else spec.conv_width
        self.conv = (
            nn.Identity() if spec.conv_width is None else ConvNormAct(in_chans, chans, kernel_size=1, act=spec.conv_act)
        )
        self.map_norm = nn.BatchNorm2d(chans) if spec.map_norm == "batch" else nn.Identity()
        self.pool, features = create_pool(global_pool, chans, map_size)
        self.pool_norm = nn.LayerNorm(features, eps=1e-6) if spec.pool_norm == "layer" else nn.Identity()
        self.dropout = nn.Dropout(drop_rate)
        if embedding_dim is None:
            self.embedding: nn.Module = nn.Identity()
            self.embedding_norm: nn.Module = nn.Identity()
            self.out_features = features
        else:
            self.embedding = nn.Linear(features, embedding_dim, bias=spec.embedding_bias)
            affine = spec.embedding_norm != "batch_without_affine"
            self.embedding_norm = (
                nn.Identity() if spec.embedding_norm == "none" else nn.BatchNorm1d(embedding_dim, affine=affine)
            )
            if spec.embedding_norm == "batch_frozen_scale":
                self.embedding_norm.weight.requires_grad_(False)  # stays 1: the scale belongs to the margin head
            self.out_features = embedding_dim

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``.

        Raises:
            ValueError: the pooling has a weight per position and the map is not of ``map_size``.
        """
        if self.fixed_map and tuple(x.shape[-2:]) != self.map_size:
            raise ValueError(
                f"this network's head expects a {self.map_size[0]}×{self.map_size[1]} map but got "
                f"{x.shape[-2]}×{x.shape[-1]}: create the model with img_size= the size of your images, or resize them"
            )
        x = self.pool(self.map_norm(self.conv(x)))
        return self.embedding_norm(self.embedding(self.dropout(self.pool_norm(x))))
