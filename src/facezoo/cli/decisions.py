"""``facezoo verify`` and ``calibrate``: decide whether two photos show the same person, with a probability."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.cli.alignment import add_alignment, aligned
from facezoo.cli.networks import add_source, load_network
from facezoo.cli.options import chance, print_json, print_result

if TYPE_CHECKING:
    from facezoo.evaluation.calibration import Calibration
    from facezoo.training import TrainedNetwork


def _add_network(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--batch-size", type=int, help="images per batch (default: 16 on a CPU, else 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    parser.add_argument(
        "--flip",
        choices=("none", "sum", "concat"),
        help="mirror augmentation (default: that of the calibration or the network)",
    )


def _load(options: argparse.Namespace) -> TrainedNetwork:
    return load_network(options, options.device)


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo calibrate``."""
    _add_network(parser)
    parser.add_argument("pairs", type=Path, help="labeled pairs: lines `a b 1`, LFW's pairs.txt, lfw.bin, parquet, ...")
    parser.add_argument(
        "--image-root", type=Path, help="folder that the names are relative to (default: beside the list)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: calibration.json beside the network)"
    )


def run_calibrate(options: argparse.Namespace) -> None:
    """Measure thresholds by FAR and the map from cosine to probability."""
    from facezoo.deploy.networks import is_registered
    from facezoo.evaluation import evaluate_pairs
    from facezoo.evaluation.calibration import fit_calibration, network_fingerprint
    from facezoo.evaluation.inputs import open_pairs
    from facezoo.weights.config import CALIBRATION_FILE

    pairs = open_pairs(options.pairs, options.image_root)
    if pairs.labels is None:
        raise ValueError(f"{options.pairs} has no labels, so it says nothing about thresholds")
    network = _load(options)
    out = options.out
    if out is None:
        folder = network.path if network.path.is_dir() else network.path.parent
        if not folder.is_dir() or options.pretrained is not None or is_registered(options.network):
            raise ValueError(f"{options.network} has no folder of its own: say --out FILE")
        out = folder / CALIBRATION_FILE
    flip = options.flip or network.preprocessing.flip
    scores = evaluate_pairs(
        network.model, pairs, flip=flip, bootstrap=0, batch_size=options.batch_size, num_workers=options.num_workers,
        progress=sys.stderr.isatty() and not options.quiet,
    ).scores  # fmt: skip
    calibration = fit_calibration(
        scores,
        pairs.labels,
        pairs=options.pairs.name,
        pairs_sha256=_digest(options.pairs),
        flip=flip,
        preprocessing=network.preprocessing.to_dict(),
        network=network_fingerprint(network.model),
    )
    calibration.save(out)
    print_result(options, calibration.to_dict(), f"{calibration}\n{out}")


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the hashes of all files below a folder."""
    import hashlib

    from facezoo.weights import sha256_of

    if path.is_file():
        return sha256_of(path)
    files = sorted(found for found in path.rglob("*") if found.is_file())
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo verify``."""
    _add_network(parser)
    parser.add_argument("images", nargs=2, type=Path, metavar="IMAGE", help="two aligned face images, or see --align")
    add_alignment(parser)
    decision = parser.add_mutually_exclusive_group()
    decision.add_argument(
        "--threshold", type=float, help="cosine from which two images are the same person (default: see --far)"
    )
    decision.add_argument(
        "--far",
        type=float,
        help="false accept rate of the decision, by the network's calibration (default: its threshold of the best accuracy, "
        "or that of the training's validation pairs)",
    )
    parser.add_argument(
        "--prior",
        type=float,
        help="prior probability that both images show the same person, for a calibration's probability (default: 0.5)",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="calibration (default: that beside the network)"
    )


@dataclass(frozen=True)
class _Rule:
    """A decision rule: the threshold, its origin, and its expected errors."""

    threshold: float | None
    origin: str | None
    expected: dict[str, Any] | None = None


def run_verify(options: argparse.Namespace) -> None:
    """Print the cosine and, if there is a threshold, the decision and its expected errors."""
    from facezoo.evaluation import embed_images
    from facezoo.evaluation.calibration import Calibration, find_calibration

    if options.threshold is not None and not -1 <= options.threshold <= 1:
        raise ValueError(f"--threshold is a cosine from -1 to 1, got {options.threshold}")
    if options.prior is not None and not 0 < options.prior < 1:
        raise ValueError(f"--prior is a probability between 0 and 1, got {options.prior}")
    network = _load(options)
    file = options.calibration or find_calibration(network.path)
    calibration = None if file is None else Calibration.load(file)
    if options.prior is not None and calibration is None:
        raise ValueError(f"--prior goes with a calibration, and {network.path} has none: see facezoo calibrate")
    prior = 0.5 if options.prior is None else options.prior
    trained_flip = _trained_flip(network)
    flip: Any = options.flip or (calibration.flip if calibration else trained_flip or network.preprocessing.flip)
    rule = _rule(options, network, calibration)
    warnings = _warnings(network, calibration, flip, trained_flip, rule)
    with aligned(options, network.preprocessing, options.images) as images:
        first, second = embed_images(
            network.model, images, flip=flip, batch_size=options.batch_size, num_workers=options.num_workers
        )
    cosine = float(first @ second)
    probability = None if calibration is None else calibration.probability(cosine, prior)
    same = None if rule.threshold is None else cosine >= rule.threshold
    if options.json:
        print_json(
            {
                "cosine": cosine, "same": same, "threshold": rule.threshold, "origin": rule.origin, "flip": flip,
                "probability": probability, "prior": prior, "expected": rule.expected, "warnings": warnings,
            }
        )  # fmt: skip
        return
    for warning in warnings:
        print(f"facezoo: warning: {warning}", file=sys.stderr)
    if same is None:
        print(f"cosine {cosine:.6f}; no decision: the network has no calibration and no threshold, so give --threshold")
        return
    verdict = "same person" if same else "different persons"
    print(f"cosine {cosine:.6f}: {verdict} (threshold {rule.threshold:.6f}, {rule.origin})")
    if probability is not None:
        print(f"probability of the same person {chance(probability)} (prior {prior * 100:g} %)")
    if rule.expected is not None:
        low, high, least, most = (
            f"{limit * 100:.2g}" for limit in (*rule.expected["far_interval"], *rule.expected["frr_interval"])
        )
        print(
            f"expected errors: {rule.expected['far'] * 100:g} % of strangers accepted ({low} to {high} %), "
            f"{rule.expected['frr'] * 100:.3g} % of the same people rejected ({least} to {most} %)"
        )


def _rule(options: argparse.Namespace, network: TrainedNetwork, calibration: Calibration | None) -> _Rule:
    if options.threshold is not None:
        return _Rule(options.threshold, "given with --threshold")
    if options.far is not None:
        if calibration is None:
            raise ValueError(
                f"--far needs a calibration, and there is none beside {network.path}: facezoo calibrate writes one"
            )
        point = calibration.at_far(options.far)
        expected = {
            "far": point.far,
            "far_interval": list(point.far_interval),
            "frr": 1 - point.tar,
            "frr_interval": [1 - limit for limit in reversed(point.tar_interval)],
        }
        return _Rule(point.threshold, f"FAR {point.far:g} on {calibration.pairs}", expected)
    if calibration is not None:
        return _Rule(calibration.accuracy_threshold, f"best accuracy on {calibration.pairs}")
    if "threshold" in network.metrics:
        return _Rule(network.metrics["threshold"], "best accuracy on the validation pairs of the training")
    return _Rule(None, None)


def _warnings(
    network: TrainedNetwork, calibration: Calibration | None, flip: str, trained_flip: str | None, rule: _Rule
) -> list[str]:
    from facezoo.evaluation.calibration import WEAK_EER, network_fingerprint

    warnings = []
    if rule.threshold is not None and rule.origin != "given with --threshold":
        measured = calibration.flip if calibration is not None else trained_flip
        if measured is not None and measured != flip:
            warnings.append(
                f"the threshold was measured with --flip {measured}, this is --flip {flip}: scores differ, so it may not hold"
            )
    elif calibration is not None and calibration.flip != flip:
        warnings.append(
            f"the calibration was made with --flip {calibration.flip}, this is --flip {flip}: its probability may not hold"
        )
    if calibration is not None and calibration.network is not None:
        if network_fingerprint(network.model) != calibration.network:
            warnings.append("the calibration is of other weights than these, so its thresholds may not hold")
        elif calibration.preprocessing is not None and calibration.preprocessing != network.preprocessing.to_dict():
            warnings.append("the calibration was made with another preprocessing, so its thresholds may not hold")
    eer = calibration.eer if calibration is not None else network.metrics.get("eer")
    if eer is not None and eer >= WEAK_EER:
        where = calibration.pairs if calibration is not None else "the validation pairs of its training"
        warnings.append(
            f"no decision by this network is worth much: its equal error rate on {where} is {eer * 100:.0f} %"
        )
    return warnings


def _trained_flip(network: TrainedNetwork) -> str | None:
    """The flip augmentation with which the training measured its threshold; None if unknown."""
    from safetensors import SafetensorError, safe_open

    if network.path.suffix != ".safetensors" or not network.path.is_file():
        return None
    try:
        with safe_open(network.path, framework="pt") as content:
            flip = json.loads((content.metadata() or {}).get("config", "{}")).get("eval_flip")
    except (SafetensorError, ValueError, AttributeError, RecursionError):
        return None
    return flip if flip in ("none", "sum", "concat") else None
