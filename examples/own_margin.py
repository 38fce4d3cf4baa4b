"""A margin of your own: one function of the target cosine. It runs in every engine, on one GPU or over many.

python examples/own_margin.py
facezoo --import own_margin train path/to/faces --margin soft_arc --margin-options scale=32 margin=0.4
"""

from __future__ import annotations

import torch
from torch import Tensor

import facezoo
from facezoo.margins import Batch, list_margins


def soft_arc(batch: Batch, *, margin: float = 0.4) -> Tensor:
    """``cos θ_y - m·(1 - cos θ_y)/2``: no margin for a sample on its center, the whole margin for one opposite to it."""
    return batch.target - margin * (1 - batch.target) / 2


if "soft_arc" not in list_margins():
    facezoo.register_margin(
        "soft_arc", title="Soft arc", formula="s·(cos θ_y - m·(1 - cos θ_y)/2)", paper="unpublished", scale=32.0
    )(soft_arc)


def main() -> float:
    """One loss and its gradient, dense and in chunks: the same numbers."""
    torch.manual_seed(0)
    embeddings, labels = torch.randn(16, 64, requires_grad=True), torch.arange(16) % 10
    losses = []
    for engine in ("dense", "chunked"):
        torch.manual_seed(1)
        head = facezoo.create_margin("soft_arc", embedding_dim=64, num_classes=10, margin=0.3, engine=engine)
        loss = head(embeddings, labels)
        loss.backward()
        losses.append(loss.item())
        print(f"{engine}: loss {loss.item():.6f}, gradient of the centers {head.weight.grad.norm():.6f}")
    return abs(losses[0] - losses[1])


if __name__ == "__main__":
    main()
