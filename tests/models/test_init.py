"""The table of initializations, and that nothing is left undrawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import facezoo
from facezoo.models.init import build_initialized, initialize


def xavier(conv: nn.Conv2d) -> float:
    return math.sqrt(2 / (math.prod(conv.kernel_size) * (conv.in_channels + conv.out_channels)))


@pytest.mark.parametrize(
    ("name", "conv_std", "linear"),
    [
        ("resnet50", lambda c: math.sqrt(2 / (c.out_channels * math.prod(c.kernel_size))), "uniform"),
        ("iresnet18", lambda c: 0.1, "uniform"),
        ("convnext_tiny", lambda c: 0.02, 0.02),
        ("lightcnn9", xavier, "xavier"),
        (
            "sphereface20",
            lambda c: 0.01 if c.in_channels == c.out_channels and c.stride == (1, 1) else xavier(c),
            "xavier",
        ),
        ("mobilenet_v2", lambda c: math.sqrt(2 * c.groups / (c.out_channels * math.prod(c.kernel_size))), 0.01),
    ],
)
def test_standard_deviations(name: str, conv_std: object, linear: object) -> None:
    torch.manual_seed(0)
    model = facezoo.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            assert float(module.weight.detach().std()) == pytest.approx(conv_std(module), rel=0.1)  # type: ignore[operator]
        if isinstance(module, nn.Linear):
            expected = {
                "uniform": 1 / math.sqrt(3 * module.in_features),
                "xavier": math.sqrt(2 / (module.in_features + module.out_features)),
            }.get(linear, linear)  # type: ignore[call-overload]
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.1)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            assert not bool(module.bias.any())


def test_residual_branches_of_resnets_start_at_zero() -> None:
    model = facezoo.create_model("se_resnet50")
    norms = [module.last_norm for module in model.modules() if hasattr(module, "last_norm")]
    assert len(norms) == 16
    assert not any(bool(norm.weight.any()) for norm in norms)
    assert all(
        bool(m.last_norm.weight.all()) for m in facezoo.create_model("iresnet18").modules() if hasattr(m, "last_norm")
    )


@pytest.mark.parametrize(
    "name", ["resnet18", "iresnet18", "convnext_tiny", "mobilenet_v2", "mobilefacenet", "hw2p2_cnn"]
)
def test_the_seed_decides_everything(name: str) -> None:
    """An undrawn (``torch.empty``) tensor would differ, or be NaN, between two constructions."""
    junk = [torch.full((1000, 1000), float("nan")) for _ in range(20)]
    del junk
    torch.manual_seed(7)
    first = facezoo.create_model(name, num_classes=10).state_dict()
    torch.manual_seed(7)
    second = facezoo.create_model(name, num_classes=10).state_dict()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_third_partys_own_parameters_keep_their_initialization() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.empty(64, 64))
            nn.init.kaiming_uniform_(self.matrix)
            self.conv = nn.Conv1d(64, 64, 1)
            self.linear = nn.Linear(64, 64)

    torch.manual_seed(0)
    own = build_initialized(Own, "resnet")
    bound = math.sqrt(6 / 64)
    assert bound * 0.95 < float(own.matrix.detach().abs().max()) <= bound
    assert float(own.conv.weight.detach().abs().max()) <= 1 / math.sqrt(64) + 1e-6
    assert float(own.conv.weight.detach().std()) == pytest.approx(1 / math.sqrt(3 * 64), rel=0.1)


def test_unknown_scheme_is_an_error() -> None:
    with pytest.raises(ValueError, match="did you mean 'resnet'"):
        initialize(nn.Linear(2, 2), "resnett")
