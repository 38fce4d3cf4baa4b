"""What the tests of the trainer and the command line train: networks of a few thousand parameters on pictures of 16 pixels.

Subprocesses import it with ``facezoo --import tiny_faces``, as a third-party package would be; two environment variables make it
send its own process a signal in the middle of an epoch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from facezoo.models import BlockSpec, HeadSpec, ModelSpec, StemSpec, is_model, register_model, stage

if not is_model("tiny_face"):
    register_model(
        ModelSpec(
            name="tiny_face",
            family="tiny",
            stems={"face": StemSpec("conv_stem", width=8, stride=1, stage_strides=(2, 2))},
            stages=(stage("conv", 1, 8), stage("conv", 1, 16)),
            head=HeadSpec(),
            init="mobilefacenet",
            paper="none",
            description="for tests",
        )
    )
    register_model(  # no batch norm: what it computes does not depend on how a batch is cut into pieces
        ModelSpec(
            name="tiny_convnext",
            family="tiny",
            stems={"face": StemSpec("patch_stem", width=8, stride=2, stage_strides=(1, 2))},
            stages=(
                stage("convnext", 1, 8, transition=BlockSpec("patch_merge")),
                stage("convnext", 1, 16, transition=BlockSpec("patch_merge")),
            ),
            head=HeadSpec("pool_norm", {"norm": "none"}),
            init="convnext",
            paper="none",
            description="for tests",
        )
    )


def write_faces(
    root: Path, *, identities: int = 5, train: int = 8, dev: int = 2, pairs: int = 12, size: int = 16
) -> Path:
    """A folder in the layout of HW2P2 F24: each identity is a pattern, each image it plus noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(40, 215, (identities + 6, 4, 4, 3)).repeat(size // 4, axis=1).repeat(size // 4, axis=2)

    def save(path: Path, identity: int) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        noisy = patterns[identity] + rng.normal(0, 25, (size, size, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=95)
        return path.name

    for split, count in (("train", train), ("dev", dev), ("test", dev)):
        for identity in range(identities):
            for image in range(count):
                save(root / "cls_data" / split / f"id{identity}" / f"id{identity}_{split}_{image}.jpg", identity)
    lines = []
    for pair in range(pairs):
        first, second = identities + pair % 6, identities + (pair + pair % 2) % 6
        names = [save(root / "ver_data" / f"v{pair}{side}.jpg", who) for side, who in (("a", first), ("b", second))]
        lines.append((names, int(first == second)))
    (root / "val_pairs.txt").write_text("".join(f"{a} {b} {same}\n" for (a, b), same in lines))
    (root / "test_pairs.txt").write_text("".join(f"{a} {b}\n" for (a, b), _ in lines))
    return root


def send_signal_at(update: int, number: int) -> None:
    """Let a training of this process receive a signal right after ``update``, before anything is logged or saved for it."""
    from facezoo.training.trainer import Trainer

    own = Trainer._after_update

    def after_update(self: Trainer, bar: Any) -> None:
        if self.state.updates == update:
            os.kill(os.getpid(), number)
        own(self, bar)

    Trainer._after_update = after_update  # type: ignore[method-assign]


@contextmanager
def in_float64() -> Iterator[None]:
    """Networks, heads and images in float64: what two ways of computing one thing differ by by rounding is then below 1e-9."""

    def widen(module: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for value in arguments
        )

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(widen)
    try:
        yield
    finally:
        hook.remove()
        torch.set_default_dtype(before)


if "FACEZOO_TEST_FLOAT64" in os.environ:
    _for_good = ExitStack()  # kept, or the context would end when it is collected
    _for_good.enter_context(in_float64())
if "FACEZOO_TEST_KILL_AT" in os.environ:
    send_signal_at(int(os.environ["FACEZOO_TEST_KILL_AT"]), signal.SIGKILL)
