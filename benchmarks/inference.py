"""Images per second of inference on the CPU, in one process, one call of each in turn. Writes results/inference.{json,md}.

python benchmarks/inference.py                                # 2 threads, batch 16
python benchmarks/inference.py --compile --batch-size 1
python benchmarks/inference.py --models mobilefacenet --batch-size 2 --repeats 1 --dry-run

Every network is asserted to give the eager one's output before anything is timed. Peers have the same form and
512 outputs: the published ImageNet form of what timm and torchvision have; plain modules for IResNet-50; none for MobileFaceNet.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import facezoo
from common import images_per_second, seconds_in_turn, write_results
from facezoo.deploy import ExportedNetwork
from peers import same_network

DEFAULT = ["resnet50", "iresnet50", "se_resnet50", "convnext_tiny", "mobilenet_v2", "mobilefacenet"]
INT8 = "facezoo in ONNX Runtime, int8"
Call = Callable[[Tensor], Tensor]


@torch.no_grad()
def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms that do something, so that a wrong folding shows, with the statistics of some images."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)
    model.train()(torch.randn(8, 3, 112, 112, generator=generator))
    return model.eval().requires_grad_(False)


def channels_last(model: nn.Module) -> Call:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return lambda images: model(images.contiguous(memory_format=torch.channels_last))


def ours(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Call]:
    """facezoo's forms of one network, with the same weights; all give the same output, which is asserted."""
    model = with_statistics(same_network(name)["facezoo"]())
    fused = facezoo.fuse(model)
    calls: dict[str, Call] = {
        "facezoo eager": model,
        "facezoo eager, channels_last": channels_last(model),
        "facezoo fused": fused,
        "facezoo fused, channels_last": channels_last(fused),
    }
    if args.compile:
        calls["facezoo eager, compiled"] = torch.compile(model)
        calls["facezoo fused, compiled"] = torch.compile(fused)
        calls["facezoo fused, channels_last, compiled"] = torch.compile(channels_last(fused))
    output = "logits" if model.num_classes else "embedding"
    for label, is_fused in (("facezoo in ONNX Runtime, fused", True), ("facezoo in ONNX Runtime, unfused", False)):
        file = folder / f"{name}_{is_fused}.onnx"
        facezoo.export(model, file, output=output, fused=is_fused)
        calls[label] = ExportedNetwork(file, threads=torch.get_num_threads())
    if args.int8:
        file = folder / f"{name}_int8.onnx"
        facezoo.export(model, file, output=output, calibration=torch.randn(32, 3, 112, 112))
        calls[INT8] = ExportedNetwork(file, threads=torch.get_num_threads())
    return calls


def peers(name: str, args: argparse.Namespace) -> dict[str, Call]:
    """The same network from elsewhere: as shipped, channels_last, and compiled if asked for."""
    found = {label: build() for label, build in same_network(name).items() if label != "facezoo"}
    calls: dict[str, Call] = {}
    for label, peer in found.items():
        peer = with_statistics(peer)
        calls[f"{label} eager"] = peer
        calls[f"{label} eager, channels_last"] = channels_last(peer)
        if args.compile:
            calls[f"{label} compiled"] = torch.compile(peer)
            calls[f"{label} channels_last, compiled"] = torch.compile(channels_last(peer))
    return calls


def check_outputs(calls: dict[str, Call], images: Tensor) -> dict[str, float]:
    """Assert that all forms give the eager one's output; the smallest cosine to it of the one that need not, that in 8 bits."""
    expected = calls["facezoo eager"](images)
    cosines = {}
    for label, call in calls.items():
        output = call(images)
        if label == INT8:  # another network, near the first one; random weights say little about how near
            cosines[label] = float(torch.cosine_similarity(output, expected).min())
            assert cosines[label] > 0.85, f"{label} has a cosine of {cosines[label]:.3f}"
            continue
        difference = float((output - expected).abs().max() / expected.abs().max())
        assert difference < 1e-4, f"{label} differs by {difference:.2g}"
    return cosines


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    images = torch.randn(args.batch_size, 3, 112, 112)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name in tqdm(args.models, unit="model"):
            with torch.inference_mode(
                False
            ):  # weights that are made here are ordinary tensors, which the exporter wants
                calls, others = ours(name, Path(folder), args), peers(name, args)
            cosines = check_outputs(calls, images)
            timed = {label: (lambda call=call: call(images)) for label, call in {**calls, **others}.items()}
            seconds = seconds_in_turn(timed, repeats=args.repeats, warmup=2)
            eager = [label for label in (others or calls) if "eager" in label and "compiled" not in label]
            best_eager_peer = min(statistics.median(seconds[label]) for label in eager)
            for label, values in seconds.items():
                row: dict[str, object] = {"model": name, "form": label, **images_per_second(args.batch_size, values)}
                row["over the best eager peer"] = best_eager_peer / statistics.median(values)
                if label in cosines:
                    row["cosine to float32"] = cosines[label]
                rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=DEFAULT)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="the compiled forms too")
    parser.add_argument("--int8", action="store_true", help="the 8-bit form too; it is not held to equal outputs")
    parser.add_argument("--dry-run", action="store_true", help="print the rows, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = measure(arguments)
    if arguments.dry_run:
        print(*measured, sep="\n")
    else:
        write_results(
            "inference",
            "Inference on the CPU at 112×112, float32",
            measured,
            note=f"Batch {arguments.batch_size}, {arguments.threads} threads, interleaved, correctness asserted first. "
            "The last column is over the faster of the peers' eager forms; where there is no peer, of facezoo's own eager forms.",
        )
