"""Heads, by name: they turn the last map into the embedding. Each is a class with its own options."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from facezoo.blocks._registry import check_options
from facezoo.layers import (
    ACTIVATIONS,
    NORMS,
    POOLS,
    VECTOR_NORMS,
    ActivationName,
    ConvNormAct,
    LinearNormAct,
    NormName,
    VectorNormName,
    create_linear,
)
from facezoo.registry import Registry

# A head is a callable `(in_chans, map_size, *, embedding_dim, global_pool, drop_rate, **own named options)` that returns a module
# `(N, in_chans, *map_size) -> (N, out_features)` with the attribute `out_features`. With `embedding_dim=None` it ends with the
# dropout; the classifier follows.
HEADS: Registry[Callable[..., nn.Module]] = Registry("head", listed_by="facezoo.blocks.HEADS.list()")
register_head = HEADS.register

_GIVEN = ("in_chans", "map_size", "embedding_dim", "global_pool", "drop_rate")


def check_head(name: str, options: Mapping[str, object]) -> None:
    """Check that a head called ``name`` exists and accepts all ``options`` and the words in them.

    Raises:
        UnknownNameError: an unknown head, or an unknown word.
        ValueError: an unknown option; the message suggests close names.
    """
    check_options("head", name, HEADS[name], options, _GIVEN)


def create_head(
    name: str,
    in_chans: int,
    map_size: tuple[int, int],
    *,
    embedding_dim: int | None,
    global_pool: str,
    drop_rate: float,
    options: Mapping[str, object] | None = None,
) -> nn.Module:
    """Build the head registered as ``name``.

    Args:
        name: name in the registry.
        in_chans: channels of the map.
        map_size: height and width of the map in cells, for pools with weights per position.
        embedding_dim: width of the embedding; None for no linear layer and norm.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout before the embedding.
        options: the head's own keyword arguments.

    Raises:
        UnknownNameError: an unknown head, pooling, norm or activation.
        ValueError: the head does not have one of the options.
    """
    own = options or {}
    check_head(name, own)
    return HEADS[name](
        in_chans, map_size, embedding_dim=embedding_dim, global_pool=global_pool, drop_rate=drop_rate, **own
    )


class Head(nn.Module):
    """Base class of heads with a pooling, a dropout, and a linear layer with a norm for the embedding.

    A head creates its layers in the order of execution, these with :meth:`set_pool` and :meth:`set_embedding`.

    Attributes:
        out_features: width of the output of :meth:`forward`.
        map_size: height and width in cells of the map that it was built for.
    """

    pool: nn.Module
    out_features: int
    map_size: tuple[int, int]

    def set_pool(self, name: str, channels: int, map_size: tuple[int, int]) -> int:
        """Create the pooling called ``name``; returns the width of its output."""
        self.map_size = map_size
        self.pool = POOLS[name](channels, map_size)
        self.fixed_map = bool(getattr(self.pool, "fixed_map", False))
        return int(getattr(self.pool, "out_features", channels))

    def set_embedding(
        self,
        in_features: int,
        embedding_dim: int | None,
        drop_rate: float,
        *,
        bias: bool = False,
        norm: VectorNormName = "batch",
        norm_eps: float | None = None,
        act: ActivationName = "none",
        rank_ratio: float | None = None,
    ) -> None:
        """Create dropout, linear layer, activation and norm.

        Args:
            in_features: width of the vector.
            embedding_dim: width of the embedding; None for the dropout alone.
            drop_rate: probability of the dropout.
            bias: whether the linear layer has a bias.
            norm: a name in ``VECTOR_NORMS``.
            norm_eps: added to the norm's variance; None for the norm's own default.
            act: activation between the linear layer and the norm; for ``"mfm"`` the linear layer has twice the width.
            rank_ratio: rank of the linear layer divided by the smaller of its widths; None for full rank.
        """
        self.dropout = nn.Dropout(drop_rate)
        self.embedding: nn.Module = nn.Identity()
        self.embedding_act: nn.Module = nn.Identity()
        self.embedding_norm: nn.Module = nn.Identity()
        self.out_features = in_features
        if embedding_dim is None:
            ACTIVATIONS[act], VECTOR_NORMS[norm]  # an unknown name is an error with and without an embedding
            return
        width = 2 * embedding_dim if act == "mfm" else embedding_dim
        if rank_ratio is None:
            self.embedding = nn.Linear(in_features, width, bias=bias)
        else:
            self.embedding = create_linear(in_features, width, bias=bias, rank_ratio=rank_ratio)
        self.embedding_act = ACTIVATIONS[act](width)
        norm_options = {} if norm_eps is None else {"eps": norm_eps}
        self.embedding_norm = VECTOR_NORMS[norm](embedding_dim, **norm_options)
        self.out_features = embedding_dim

    def pooled(self, x: Tensor) -> Tensor:
        """The pooled ``(N, C, H, W)`` map.

        Raises:
            ValueError: the pooling has weights per position, and the map does not have ``map_size``.
        """
        if self.fixed_map and tuple(x.shape[-2:]) != self.map_size:
            raise ValueError(
                f"this network's head expects a {self.map_size[0]}×{self.map_size[1]} map but got "
                f"{x.shape[-2]}×{x.shape[-1]}: create the model with img_size= the size of your images, or resize them"
            )
        return self.pool(x)

    def embedded(self, vector: Tensor) -> Tensor:
        """``(N, in_features) -> (N, out_features)``: dropout, linear layer, activation, norm."""
        return self.embedding_norm(self.embedding_act(self.embedding(self.dropout(vector))))


@register_head("linear")
class LinearHead(Head):
    """Pool, dropout, linear layer, norm.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells.
        embedding_dim: width of the embedding; None for none.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout.
        bias: whether the linear layer has a bias.
        act: activation behind it.
        norm: norm of the embedding.
        norm_eps: added to that norm's variance; None for its own default.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
        bias: bool = False,
        act: ActivationName = "none",
        norm: VectorNormName = "batch",
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        features = self.set_pool(global_pool, in_chans, map_size)
        self.set_embedding(features, embedding_dim, drop_rate, bias=bias, act=act, norm=norm, norm_eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``."""
        return self.embedded(self.pooled(x))


@register_head("conv")
class ConvHead(Head):
    """A 1×1 convolution, pool, optional hidden layer, dropout, linear layer, norm: the head of mobile networks.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells.
        embedding_dim: width of the embedding; None for none.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout.
        width: channels of the convolution.
        act: activation behind it.
        hidden_width: width of a linear layer after the pooling, which is there with and without an embedding (MobileNetV3);
            None for none.
        hidden_act: activation of that layer.
        bias: whether the embedding's linear layer has a bias.
        norm: norm of the embedding.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
        width: int,
        act: ActivationName = "relu",
        hidden_width: int | None = None,
        hidden_act: ActivationName = "relu",
        bias: bool = False,
        norm: VectorNormName = "batch",
    ) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_chans, width, 1, act=act)
        features = self.set_pool(global_pool, width, map_size)
        self.hidden: nn.Module = nn.Identity()
        if hidden_width is not None:
            self.hidden = LinearNormAct(features, hidden_width, norm="none", act=hidden_act)
            features = hidden_width
        self.set_embedding(features, embedding_dim, drop_rate, bias=bias, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``."""
        return self.embedded(self.hidden(self.pooled(self.conv(x))))


@register_head("norm")
class NormHead(Head):
    """A norm on the map, pool, dropout, linear layer, norm: IResNet, DenseNet, Swin, ViT.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells.
        embedding_dim: width of the embedding; None for none.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout.
        map_norm: norm on the map: a name in ``NORMS``.
        map_norm_eps: added to its variance; None for its own default.
        map_act: activation behind it.
        bias: whether the linear layer has a bias.
        norm: norm of the embedding.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
        map_norm: NormName,
        map_norm_eps: float | None = None,
        map_act: ActivationName = "none",
        bias: bool = False,
        norm: VectorNormName = "batch",
    ) -> None:
        super().__init__()
        self.map_norm = NORMS[map_norm](in_chans, **({} if map_norm_eps is None else {"eps": map_norm_eps}))
        self.map_act = ACTIVATIONS[map_act](in_chans)
        features = self.set_pool(global_pool, in_chans, map_size)
        self.set_embedding(features, embedding_dim, drop_rate, bias=bias, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``."""
        return self.embedded(self.pooled(self.map_act(self.map_norm(x))))


@register_head("tokens")
class TokenHead(Head):
    """Layer norm on every position, pool, linear layer with batch norm, then the embedding: insightface's ViT.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells.
        embedding_dim: width of the embedding; None for none.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout.
        hidden_width: width of the linear layer before the embedding.
        norm_eps: added to the variance of the layer norm.
        bias: whether the embedding's linear layer has a bias.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
        hidden_width: int,
        norm_eps: float = 1e-5,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.map_norm = NORMS["layer"](in_chans, eps=norm_eps)
        features = self.set_pool(global_pool, in_chans, map_size)
        self.hidden = LinearNormAct(features, hidden_width, norm="batch", act="none")
        self.set_embedding(hidden_width, embedding_dim, drop_rate, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``."""
        return self.embedded(self.hidden(self.pooled(self.map_norm(x))))


@register_head("pool_norm")
class PoolNormHead(Head):
    """Pool, layer norm, dropout, linear layer, norm: ConvNeXt, EdgeNeXt, EdgeFace.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells.
        embedding_dim: width of the embedding; None for none.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout.
        pool_norm_eps: added to the variance of the layer norm.
        bias: whether the linear layer has a bias.
        rank_ratio: rank of the linear layer divided by the smaller of its widths (EdgeFace); None for full rank.
        norm: norm of the embedding.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
        pool_norm_eps: float = 1e-6,
        bias: bool = False,
        rank_ratio: float | None = None,
        norm: VectorNormName = "batch",
    ) -> None:
        super().__init__()
        features = self.set_pool(global_pool, in_chans, map_size)
        self.pool_norm = nn.LayerNorm(features, eps=pool_norm_eps)
        self.set_embedding(features, embedding_dim, drop_rate, bias=bias, rank_ratio=rank_ratio, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``."""
        return self.embedded(self.pool_norm(self.pooled(x)))


@register_head("mlp")
class MlpHead(Head):
    """Pool, hidden layers with ReLU, dropout between them, then the embedding: VGG as published.

    Args:
        in_chans: channels of the map.
        map_size: height and width of the map in cells.
        embedding_dim: width of the embedding; None for none.
        global_pool: name of the pooling.
        drop_rate: probability of the dropout after each hidden layer.
        hidden_width: width of the hidden layers.
        hidden_depth: number of hidden layers.
    """

    def __init__(
        self,
        in_chans: int,
        map_size: tuple[int, int],
        *,
        embedding_dim: int | None,
        global_pool: str,
        drop_rate: float,
        hidden_width: int,
        hidden_depth: int,
    ) -> None:
        super().__init__()
        features = self.set_pool(global_pool, in_chans, map_size)
        layers: list[nn.Module] = [LinearNormAct(features, hidden_width, norm="none")]
        for _ in range(hidden_depth - 1):
            layers += [nn.Dropout(drop_rate), LinearNormAct(hidden_width, hidden_width, norm="none")]
        self.hidden = nn.Sequential(*layers)
        self.set_embedding(hidden_width, embedding_dim, drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, out_features)``."""
        return self.embedded(self.hidden(self.pooled(x)))
