"""Every margin for a few hundred steps on real faces: does it train, and does it verify better than the plain linear head?

    python benchmarks/margins_on_faces.py FACES --steps 200 --part 0 --parts 2      # halves, one per core
    python benchmarks/margins_on_faces.py FACES --steps 200 --setting short --only arcface cosface
    python benchmarks/margins_on_faces.py FACES --merge

FACES is a folder with cls_data/, ver_data/ and val_pairs.txt (View 1). Same network, same
initial weights, same batches for all. Two settings: ``published``, the heads' defaults, which are made for long training on many
people, but for ``scale`` (32, where it is 64); ``short``, what so few steps on so few people ask for: a scale near AdaCos's
√2·ln(C - 1), half the margin, and a warm-up of the margin over half of the steps. Writes results/margins_on_faces.{json,md}; only
figures, never an image.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

import facezoo
from common import RESULTS, write_results
from facezoo.data import ImageFolder, read_pairs
from facezoo.evaluation import verification_metrics
from facezoo.evaluation.pairs import pair_scores

SIZE = 48
WHY_NOT = (
    "There sub-centers are level with the linear head (a third of the images for each), and three stay above it: UniTSFace trains "
    "nothing before its `start`, step 100 of 200; SphereFace2 divides its loss by the scale (ten times the learning rate: 37.4 % "
    "with the defaults instead of 41.2); P2SGrad regresses every cosine, 199 of them to 0 for one to 1, and is slow to start (ten "
    "times the learning rate: 44.2 %). VPL is ArcFace until its `start`, step 8,000. A few hundred steps show that a margin "
    "trains, not which one is best."
)


def options_of(name: str, setting: str, args: argparse.Namespace) -> dict[str, Any]:
    """Options of a head other than its defaults."""
    defaults = facezoo.margins.margin_class(name).defaults
    if setting == "published":
        return {"scale": 32.0} if defaults.get("scale") == 64.0 else {}
    options: dict[str, Any] = {}
    if "scale" in defaults:
        options["scale"] = round(math.sqrt(2) * math.log(args.identities - 1), 1)
    if isinstance(defaults.get("margin"), float) and defaults["margin"] < 1:
        options["margin"] = defaults["margin"] / 2
    try:
        facezoo.create_margin(name, embedding_dim=2, num_classes=2, **options, warmup_steps=1)
    except ValueError:  # this margin has none
        return options
    return options | {"warmup_steps": args.steps // 2}


def decoded(dataset: Any) -> Tensor:
    """All images as uint8 ``(N, 3, SIZE, SIZE)``."""
    resize = v2.Compose([v2.PILToTensor(), v2.Resize([SIZE, SIZE], antialias=True)])
    dataset.transform = resize
    return torch.stack(
        [
            item[0] if isinstance(item, tuple) else item
            for item in tqdm((dataset[i] for i in range(len(dataset))), total=len(dataset), unit="img", leave=False)
        ]
    )


def as_input(images: Tensor) -> Tensor:
    return ((images.float() - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


def train(
    name: str, images: Tensor, labels: Tensor, classes: int, args: argparse.Namespace
) -> tuple[Any, list[float], dict]:
    torch.manual_seed(0)
    model = facezoo.create_model("resnet18", stem="imagenet", img_size=SIZE, embedding_dim=256)
    model.to(memory_format=torch.channels_last)
    options = options_of(name, args.setting, args)
    head = facezoo.create_margin(name, embedding_dim=256, num_classes=classes, **options)
    if name == "dyn_arcface":
        head.set_class_counts(torch.bincount(labels, minlength=classes))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    warmup = args.steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / args.steps))),
    )
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in tqdm(range(args.steps), desc=name, leave=False):
        batch = torch.randint(len(images), (args.batch_size,), generator=generator)
        chosen = images[batch]
        flipped = torch.rand(args.batch_size, generator=generator) < 0.5
        chosen[flipped] = chosen[flipped].flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = model(as_input(chosen))
        loss = head(embeddings, labels[batch])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return model, losses, options


@torch.inference_mode()
def verification(model: Any, images: Tensor, pairs: Any) -> Any:
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = torch.cat([model(as_input(chunk)).float() for chunk in images.split(128)])
    scores = pair_scores(torch.nn.functional.normalize(embeddings), pairs.left, pairs.right)
    return verification_metrics(scores, pairs.labels, fars=(1e-1, 1e-2))


def run(args: argparse.Namespace) -> None:
    train_set = ImageFolder(args.faces / "cls_data" / "train")
    chosen = [index for index, label in enumerate(train_set.labels.tolist()) if label < args.identities]
    train_set = train_set.subset(chosen, None)
    labels = train_set.labels
    images = decoded(train_set)
    pairs = read_pairs(args.faces / "val_pairs.txt", args.faces / "ver_data")
    from facezoo.data import ImageList

    pair_images = decoded(ImageList(list(pairs.paths)))
    names = args.only or facezoo.list_margins()
    names = sorted(names, key=lambda name: name != "linear")[args.part :: args.parts]
    rows = []
    for name in names:
        started = time.monotonic()
        model, losses, options = train(name, images, labels, args.identities, args)
        finite = all(math.isfinite(loss) for loss in losses)
        row: dict[str, Any] = {
            "margin": name,
            "setting": args.setting,
            "options": ", ".join(f"{k}={v}" for k, v in options.items()),
        }
        row |= {
            "loss, first 20": sum(losses[:20]) / 20,
            "loss, last 20": sum(losses[-20:]) / 20,
            "NaN": "no" if finite else "YES",
        }
        if finite:
            metrics = verification(model, pair_images, pairs)
            low, high = metrics.eer_interval
            row |= {
                "EER": metrics.eer,
                "EER %": f"{100 * metrics.eer:.1f} ({100 * low:.1f}–{100 * high:.1f})",
                "AUC": f"{metrics.auc:.3f}",
            }
        row["seconds"] = round(time.monotonic() - started)
        rows.append(row)
        print(row, flush=True)
        _part(args).write_text(json.dumps({"rows": rows, "images": len(images)}))


def merge(args: argparse.Namespace) -> None:
    paths = sorted(RESULTS.glob("margins_on_faces_part*.json"))
    parts = [json.loads(path.read_text()) for path in paths]
    rows = [row for part in parts for row in part["rows"]]
    (linear,) = (row["EER"] for row in rows if row["margin"] == "linear")
    for row in rows:
        row["EER − linear, points"] = f"{100 * (row['EER'] - linear):+.1f}" if "EER" in row else "–"
    rows.sort(key=lambda row: (row["setting"], row.pop("EER", 1.0)))
    write_results(
        "margins_on_faces",
        f"Every margin, {args.steps} steps on {args.identities} people ({parts[0]['images']:,} images)",
        rows,
        note=f"resnet18 (ImageNet stem) at {SIZE}×{SIZE}, 256-d, from the same weights with the same batches of {args.batch_size}; "
        f"SGD, lr {args.lr}, cosine; bf16 backbone, float32 head. EER on the 999 View 1 pairs of LFW, 95 % intervals in brackets: "
        "differences of a few points are within them. Setting `published`: the defaults, with a scale of 32 where it is 64. They "
        "are made for long training on many people; here most margins are still above the linear head when the steps end, as is "
        "NormFace, which has no margin: a scale of 30 for 200 people is enough to explain it. Setting `short`: a scale near "
        "AdaCos's √2·ln(C - 1), half the margin, and a warm-up of the margin. " + WHY_NOT,
    )
    for path in paths:
        path.unlink()


def _part(args: argparse.Namespace) -> Path:
    return RESULTS / f"margins_on_faces_part_{args.setting}_{args.part}.json"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--setting", choices=["published", "short"], default="published")
    parser.add_argument(
        "--only", nargs="+", choices=facezoo.list_margins(), metavar="MARGIN", help="some of the margins"
    )
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--merge", action="store_true", help="join the parts' figures into the result files")
    arguments = parser.parse_args()
    merge(arguments) if arguments.merge else run(arguments)
