"""Images per second of a training step and of inference, per backbone.

Writes results/throughput_<device>[_peers][_compiled].{json,md}.

python benchmarks/throughput.py --device cuda --batch-size 256 --compile
python benchmarks/throughput.py --models resnet50 convnext_tiny --peers      # timm and torchvision beside, same form

All libraries and forms of one network are timed in turn, in one process: contiguous, channels_last and, with ``--compile``,
channels_last compiled.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

import facezoo
from common import images_per_second, ratio_of_medians, seconds_in_turn, steps_at_once, write_results
from peers import same_network

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
WITH_PEERS = ["resnet50", "se_resnet50", "convnext_tiny", "mobilenet_v2", "vit_small_patch16", "iresnet50"]
Step = Callable[[], None]


def training_step(model: nn.Module, images: torch.Tensor, amp: bool) -> Step:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=True)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            loss = model(images).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def inference(model: nn.Module, images: torch.Tensor, amp: bool) -> Step:
    model.eval()

    def run() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            model(images)

    return run


def forms_of(
    make: Callable[[nn.Module, torch.Tensor, bool], Step],
    build: Callable[[], nn.Module],
    images: torch.Tensor,
    args: argparse.Namespace,
) -> dict[str, Step]:
    """A model of its own for each form, with seeded weights."""

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return build().to(images.device)

    nhwc = images.contiguous(memory_format=torch.channels_last)
    calls = {}
    if images.device.type == "cpu" or args.peers:
        calls["as shipped"] = make(fresh(), images, not args.float32)
    calls["channels_last"] = make(fresh().to(memory_format=torch.channels_last), nhwc, not args.float32)
    if args.compile:
        model = fresh().to(memory_format=torch.channels_last)
        calls["channels_last, compiled"] = make(torch.compile(model), nhwc, not args.float32)
    return calls


def measure(args: argparse.Namespace, report: Callable[[list[dict[str, object]]], None]) -> None:
    """Measure network after network; ``report`` gets the rows so far, so that a run that is cut short keeps them."""
    device = torch.device(args.device)
    rows: list[dict[str, object]] = []
    for name in tqdm(args.models, unit="model"):
        builds = same_network(name) if args.peers else {"facezoo": lambda name=name: facezoo.create_model(name)}
        size = 224 if args.peers and name.startswith("vit") else 112  # timm's has a weight per position of 224 pixels
        images = torch.randn(args.batch_size, 3, size, size, device=device)
        for kind, make in (("training step", training_step), ("inference", inference)):
            torch.compiler.reset()
            calls = {
                (label, form): call
                for label, build in builds.items()
                for form, call in forms_of(make, build, images, args).items()
            }
            at_once = steps_at_once(args.device)
            seconds = seconds_in_turn(calls, repeats=args.repeats, warmup=2, device=args.device, at_once=at_once)
            for (label, form), values in seconds.items():
                row: dict[str, object] = {"model": name, "pixels": size, "kind": kind, "library": label, "form": form}
                row |= images_per_second(args.batch_size, values)
                others = [times for (lib, at), times in seconds.items() if lib != "facezoo" and at == form]
                if label == "facezoo" and others:
                    ratio, low, high = ratio_of_medians(min(others, key=statistics.median), values)
                    row["over the fastest peer in this form"] = ratio
                    row["95 % interval"] = f"{low:.3f} – {high:.3f}"
                rows.append(row)
        report(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", help=f"default: {' '.join(DEFAULT)}; with --peers {' '.join(WITH_PEERS)}"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="beside the eager networks, the compiled ones")
    parser.add_argument("--float32", action="store_true", help="float32 instead of bf16 autocast")
    parser.add_argument(
        "--peers", action="store_true", help="who else has the network beside, in the same form (ViT at 224 pixels)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the rows, write nothing")
    arguments = parser.parse_args()
    arguments.models = arguments.models or (WITH_PEERS if arguments.peers else DEFAULT)
    torch.backends.cudnn.benchmark = True
    suffix = ("_peers" if arguments.peers else "") + ("_compiled" if arguments.compile else "")
    name = f"throughput_{arguments.device.split(':')[0]}{suffix}"
    precision = "float32" if arguments.float32 else "bf16 autocast"
    note = f"Batch {arguments.batch_size}, {precision}, interleaved, median of {arguments.repeats}."
    if arguments.dry_run:
        measure(arguments, lambda rows: print(*rows, sep="\n"))
    else:
        measure(arguments, lambda rows: write_results(name, "Training and inference throughput", rows, note=note))
