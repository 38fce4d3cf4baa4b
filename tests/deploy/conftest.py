from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


def as_trained(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Norms as a training leaves them, scales of both signs, some channels switched off; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.weight is not None:
                signs = torch.randint(0, 2, module.weight.shape, generator=generator) * 2 - 1
                module.weight.data.uniform_(0.5, 1.5, generator=generator).mul_(signs)
                module.weight.data[::5] = 0
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(name="as_trained")
def as_trained_fixture() -> Callable[..., nn.Module]:
    return as_trained
