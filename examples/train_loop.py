"""A complete training in one file, without facezoo's trainer: data, network, margin, optimizer, loop, evaluation, saving.

    python examples/train_loop.py path/to/faces --epochs 25 --out runs/loop

What it computes is what `facezoo train` computes with the same settings, bit for bit. What it lacks: resuming within an epoch,
several GPUs, mixing, moving averages, logs. Copy it and change what you like.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

import facezoo
from facezoo.data import (
    ResumableSampler,
    SeededDataset,
    augment_recipe,
    eval_transform,
    make_loader,
    open_face_data,
    train_transform,
)
from facezoo.evaluation import classification_accuracy, evaluate_pairs
from facezoo.training import parameter_groups, warmup_cosine
from facezoo.weights import save_pretrained


def train(
    data: Path,
    *,
    model_name: str = "resnet18",
    img_size: int = 112,
    embedding_dim: int = 512,
    scale: float = 64.0,
    margin: float = 0.5,
    augment: str = "standard",
    epochs: int = 25,
    batch_size: int = 128,
    lr: float = 0.1,
    warmup_epochs: float = 1.0,
    weight_decay: float = 5e-4,
    seed: int = 0,
    workers: int = 2,
) -> tuple[torch.nn.Module, torch.nn.Module, list[float]]:
    """Train a backbone with ArcFace. Returns it, the head, and the loss of every update."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # The network, and the faces prepared as it wants them
    torch.manual_seed(seed)
    model = facezoo.create_model(model_name, img_size=img_size, embedding_dim=embedding_dim)
    faces = open_face_data(
        data,
        train_transform=train_transform(model.preprocessing, augment_recipe(augment)),
        eval_transform=eval_transform(model.preprocessing),
    )
    print(faces.describe())
    torch.manual_seed(seed + 1)
    head = facezoo.create_margin(
        "arcface", embedding_dim=embedding_dim, num_classes=len(faces.classes), scale=scale, margin=margin
    )
    model, head = model.to(device), head.to(device)

    # Batches whose order and augmentation depend on seed and epoch only
    images = SeededDataset(faces.train, seed)
    sampler = ResumableSampler(len(faces.train), seed=seed)
    loader = make_loader(images, batch_size, sampler=sampler, num_workers=workers)
    updates_per_epoch = len(faces.train) // batch_size
    total, warmup = epochs * updates_per_epoch, round(warmup_epochs * updates_per_epoch)

    # Weight decay for matrices and filters, none for norms and biases; the class centers are trained too
    groups = parameter_groups(model, head, weight_decay=weight_decay, head_weight_decay=weight_decay)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)

    losses: list[float] = []
    for epoch in range(epochs):
        model.train()
        head.train()
        images.set_epoch(epoch)
        sampler.set_epoch(epoch)
        for batch, labels in loader:
            if len(labels) < batch_size:  # the last batch is not full
                continue
            for group in optimizer.param_groups:
                group["lr"] = lr * warmup_cosine(len(losses), total=total, warmup=warmup)
            loss = head(model(batch.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RuntimeError(f"the loss is {losses[-1]} at update {len(losses)}: lower lr")
        report = [f"epoch {epoch + 1}/{epochs}: loss {losses[-1]:.4f}"]
        if faces.dev is not None:
            report.append(f"dev accuracy {classification_accuracy(model, faces.dev, head=head).accuracy:.2%}")
        if faces.val_pairs is not None:
            report.append(str(evaluate_pairs(model, faces.val_pairs)))
        print(", ".join(report), flush=True)
    return model, head, losses


def main() -> None:
    """Read the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of faces, in any layout that facezoo reads")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("runs/loop"))
    options = parser.parse_args()
    model, _, _ = train(options.data, epochs=options.epochs)
    save_pretrained(model, options.out, license="unknown")
    print(f"saved; embed with it: facezoo embed local-dir:{options.out} IMAGE")


if __name__ == "__main__":
    main()
