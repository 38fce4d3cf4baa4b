"""Images per second of a training step and of inference, per backbone. Writes results/throughput_<device>.{json,md}.

python benchmarks/throughput.py --device cuda --batch-size 256 --compile
python benchmarks/throughput.py --models resnet18 mobilefacenet --peers     # timm and torchvision beside, same shape
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

import facezoo
from common import time_interleaved, write_results

DEFAULT = [
    "mobilefacenet",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "se_resnet50",
    "iresnet50",
    "iresnet100",
    "convnext_tiny",
]


def training_step(model: nn.Module, images: torch.Tensor, amp: bool) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            loss = model(images).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference(model: nn.Module, images: torch.Tensor, amp: bool) -> Callable[[], None]:
    def run() -> None:
        was_training = model.training
        model.eval()
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            model(images)
        model.train(was_training)

    return run


def peers(name: str) -> dict[str, Callable[[], nn.Module]]:
    """The same published network (ImageNet form, 512 outputs) from timm and torchvision, where they have it."""
    import timm
    import torchvision

    timm_name = {"se_resnet50": "seresnet50", "mobilenet_v2": "mobilenetv2_100"}.get(name, name)
    found: dict[str, Callable[[], nn.Module]] = {
        f"facezoo {name}": lambda: facezoo.create_model(name, stem="imagenet", embedding_dim=None, num_classes=512)
    }
    if timm.is_model(timm_name):
        found[f"timm {timm_name}"] = lambda: timm.create_model(timm_name, num_classes=512)
    if hasattr(torchvision.models, name):
        found[f"torchvision {name}"] = lambda: getattr(torchvision.models, name)(num_classes=512)
    return found


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    device = torch.device(args.device)
    images = torch.randn(args.batch_size, 3, 112, 112, device=device).contiguous(memory_format=torch.channels_last)
    rows: list[dict[str, object]] = []
    for name in tqdm(args.models, unit="model"):
        builders = peers(name) if args.peers else {f"facezoo {name}": lambda name=name: facezoo.create_model(name)}
        models = {label: build().to(device, memory_format=torch.channels_last) for label, build in builders.items()}
        if args.compile:
            models |= {f"{label}, compiled": torch.compile(model) for label, model in models.items()}
        for kind, make in (("training step", training_step), ("inference", inference)):
            calls = {label: make(model, images, not args.float32) for label, model in models.items()}
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = time_interleaved(calls, repeats=args.repeats, warmup=3, device=args.device)
            for label, figure in seconds.items():
                rows.append(
                    {
                        "model": label,
                        "kind": kind,
                        "img/s (median)": args.batch_size / figure["median"],
                        "img/s (slowest)": args.batch_size / figure["max"],
                        "img/s (fastest)": args.batch_size / figure["min"],
                    }
                )
        del models
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=DEFAULT)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="beside the eager networks, the compiled ones")
    parser.add_argument("--float32", action="store_true", help="float32 instead of bf16 autocast")
    parser.add_argument(
        "--peers", action="store_true", help="timm and torchvision beside, all in their ImageNet form at 112×112"
    )
    arguments = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    suffix = "_peers" if arguments.peers else ""
    write_results(
        f"throughput_{arguments.device.split(':')[0]}{suffix}",
        "Training and inference throughput at 112×112",
        measure(arguments),
        note=f"Batch {arguments.batch_size}, channels_last, {'float32' if arguments.float32 else 'bf16 autocast'}, interleaved.",
    )
