"""From the last map to the embedding."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.layers import ConvNormAct, LayerNorm2d, LinearNormAct, create_activation, create_linear, create_pool
from facezoo.models.spec import HeadSpec


class EmbeddingHead(nn.Module):
    """Conv, norm, pool, norm, hidden layers, dropout, linear, norm – each where the spec has it.

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
        self.map_norm: nn.Module = nn.Identity()
        if spec.map_norm == "batch":
            self.map_norm = nn.BatchNorm2d(chans)
        elif spec.map_norm == "layer":
            self.map_norm = LayerNorm2d(chans, eps=spec.norm_eps)
        self.map_act = create_activation(spec.map_act, chans)
        self.pool, features = create_pool(global_pool, chans, map_size)
        self.pool_norm = nn.LayerNorm(features, eps=spec.norm_eps) if spec.pool_norm == "layer" else nn.Identity()
        if spec.hidden_width is None:
            self.hidden: nn.Module = nn.Identity()
        else:
            self.hidden = _hidden_layers(features, spec, spec.hidden_width, drop_rate)
            features = spec.hidden_width
        self.dropout = nn.Dropout(drop_rate)
        if embedding_dim is None:
            self.embedding: nn.Module = nn.Identity()
            self.embedding_act: nn.Module = nn.Identity()
            self.embedding_norm: nn.Module = nn.Identity()
            self.out_features = features
        else:
            width = 2 * embedding_dim if spec.embedding_act == "mfm" else embedding_dim
            self.embedding = create_linear(
                features, width, bias=spec.embedding_bias, rank_ratio=spec.embedding_rank_ratio
            )
            self.embedding_act = create_activation(spec.embedding_act, width)
            self.embedding_norm = _embedding_norm(embedding_dim, spec)
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
        x = self.pool(self.map_act(self.map_norm(self.conv(x))))
        x = self.embedding(self.dropout(self.hidden(self.pool_norm(x))))
        return self.embedding_norm(self.embedding_act(x))


def _hidden_layers(in_features: int, spec: HeadSpec, width: int, drop_rate: float) -> nn.Module:
    first = LinearNormAct(in_features, width, norm=spec.hidden_norm, act=spec.hidden_act)
    if spec.hidden_depth == 1:
        return first
    layers: list[nn.Module] = [first]
    for _ in range(spec.hidden_depth - 1):
        layers += [nn.Dropout(drop_rate), LinearNormAct(width, width, norm=spec.hidden_norm, act=spec.hidden_act)]
    return nn.Sequential(*layers)


def _embedding_norm(width: int, spec: HeadSpec) -> nn.Module:
    if spec.embedding_norm == "none":
        return nn.Identity()
    affine = spec.embedding_norm != "batch_without_affine"
    norm = nn.BatchNorm1d(width, eps=spec.embedding_norm_eps, affine=affine)
    if spec.embedding_norm == "batch_frozen_scale":
        norm.weight.requires_grad_(False)  # stays 1: the scale belongs to the margin head
    return norm
