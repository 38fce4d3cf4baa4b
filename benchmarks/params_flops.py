"""The table of every model: parameters, MACs and memory in both forms, each beside its oracle.

Writes results/params_flops.{json,md}: python benchmarks/params_flops.py
With names it computes the rows of these models only and keeps the others: python benchmarks/params_flops.py mynet_small mynet_base
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

import facezoo
from common import RESULTS, write_results
from facezoo.models import get_model_spec
from facezoo.models.factory import count_parameters
from facezoo.profile import ModelProfile, profile_model

FIGURES = Path(__file__).parent.parent / "tests" / "models"
IMAGENET = {"stem": "imagenet", "embedding_dim": None, "num_classes": 1000}


def read_figures() -> dict[str, dict[str, dict[str, Any]]]:
    """The published figures of all files in tests/models, by form and name; none stands in two files."""
    figures: dict[str, dict[str, dict[str, Any]]] = {"imagenet": {}, "face": {}, "published": {}}
    for path in sorted(FIGURES.glob("reference_figures*.json")):
        for form, entries in json.loads(path.read_text()).items():
            assert not figures[form].keys() & entries.keys(), path.name
            figures[form] |= entries
    return figures


def row(name: str, figures: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """One model. Raises ValueError if it has no oracle, or differs from it and nothing explains it."""
    spec = get_model_spec(name)
    face = profile_model(name)
    assert face.training_bytes is not None
    assert face.inference_bytes is not None
    values: dict[str, Any] = {
        "model": name,
        "params": face.params,
        "MACs": face.macs,
        "activations": face.activations,
        "training bytes per image": face.training_bytes,
        "inference bytes": face.inference_bytes,
        "params with 8,631 classes": count_parameters(spec, 8631),
    }
    published = None
    if "imagenet" in spec.stems:
        published = profile_model(name, img_size=224, memory=False, **IMAGENET)
    values["ImageNet params"] = published.params if published else None
    values["ImageNet MACs"] = published.macs if published else None
    return values | _oracle(name, face, published, figures)


def _oracle(
    name: str, face: ModelProfile, published: ModelProfile | None, figures: dict[str, dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    form = next((form for form, entries in figures.items() if name in entries), None)
    if form is None:
        raise ValueError(f"{name} has no oracle: add it to a file of reference figures, with its source")
    entry = figures[form][name]
    source = entry.get("oracle") or entry["source"]
    if form == "published":
        arguments = {key: entry[key] for key in ("embedding_dim", "stem") if key in entry}
        ours = profile_model(name, memory=False, **arguments) if arguments else face
        theirs = (f"{entry['params_m']} M", f"{entry['mflops']} MFLOPs")
        shown = f"; here {ours.params / 1e6:.3f} M, {2 * ours.macs / 1e6:.1f} MFLOPs"
        return _columns(source, form, arguments, theirs, entry["difference"] + shown)
    arguments = entry.get("arguments", {})
    if form == "imagenet":
        assert published is not None
        ours, theirs = published, (entry["params"], entry["macs_224"])
    else:
        ours = profile_model(name, memory=False, **arguments) if arguments else face
        theirs = (entry["params"], entry["macs" if arguments else "macs_112"])
    equal = (ours.params, ours.macs) == theirs
    if not equal and "difference" not in entry:
        raise ValueError(f"{name} has {(ours.params, ours.macs)}, {source} has {theirs}, and nothing says why")
    difference = "none" if equal else ""
    return _columns(source, form, arguments, theirs, "; ".join(filter(None, (difference, entry.get("difference")))))


def _columns(
    source: str, form: str, arguments: dict[str, Any], theirs: tuple[Any, Any], difference: str
) -> dict[str, Any]:
    given = ", ".join(f"{key}={value}" for key, value in arguments.items())
    of = {"imagenet": "ImageNet", "face": "face", "published": "face, rounded"}[form]
    return {
        "oracle": source,
        "compared in": f"{of} ({given})" if given else of,
        "oracle's params": theirs[0],
        "oracle's MACs": theirs[1],
        "difference": difference,
    }


NOTE = (
    "Face form: 112×112, 512-d embedding, no classifier; ImageNet form: 224×224, 1000 classes. MACs are those of convolutions and "
    "matrix products, activations the numbers in the outputs of convolutions and linear layers, training bytes what autograd keeps "
    "per image in float32, inference bytes the most that is alive at once (see facezoo.profile); all exact, for one image, on the "
    "meta device. The oracle is timm or torchvision where they have the model, else the definition of its authors or their paper; "
    "its figures are those of the form that `compared in` names."
)


def updated_rows(names: list[str]) -> list[dict[str, Any]]:
    """The rows of all registered models; those of ``names`` are computed, the others are taken from the file of results."""
    everything = read_figures()
    written = {entry["model"]: entry for entry in json.loads((RESULTS / "params_flops.json").read_text())["rows"]}
    written |= {name: row(name, everything) for name in tqdm(names, unit="model")}
    missing = [name for name in facezoo.list_models() if name not in written]
    if missing:
        raise SystemExit(f"no row for {', '.join(missing)}: name them too")
    return [written[name] for name in facezoo.list_models()]


if __name__ == "__main__":
    rows = updated_rows(sys.argv[1:] or facezoo.list_models())
    write_results("params_flops", "Parameters, multiply-accumulates and memory", rows, note=NOTE)
