"""What ``facezoo evaluate`` is asked to measure, and which of its options have an effect on that."""

from __future__ import annotations

import argparse
from pathlib import Path

# What can be measured, in the words of messages.
SCORES, SUITE, ALL_PAIRS = "--scores", "--suite", "--all-pairs"
ROBUSTNESS, QUALITY, AGAINST, OUT = "--robustness", "--quality", "--against", "--out"
EXPORTED, EMBEDDINGS, PAIRS = "an exported network", "a file of embeddings", "--pairs"
FOLDER, FOLDER_ACCURACY, FOLDER_PAIRS = "a data folder", "the accuracy on a data folder", "the pairs of a data folder"
# What that needs.
_WEIGHTS, _IMAGES, _IMAGE_PAIRS = "a network that is not exported", "images to embed", "pairs of images to embed"

_FURTHER = (ROBUSTNESS, QUALITY, AGAINST, OUT, EXPORTED, EMBEDDINGS)
_LISTS = (PAIRS, *_FURTHER)
FOLDERS = (FOLDER, FOLDER_ACCURACY, FOLDER_PAIRS)
_OF_A_NETWORK = (
    "--model", "--pretrained", "--embedding-dim", "--num-classes", "--img-size", "--stem", "--in-chans", "--mean", "--std",
    "--channel-order", "--crop",
)  # fmt: skip
# Option, or option and value -> what it has an effect on; one of these has to be asked for.
EFFECTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_OF_A_NETWORK, (_WEIGHTS,)),
    "NETWORK": (SUITE, ALL_PAIRS, *_LISTS, *FOLDERS),
    "--device": (_WEIGHTS, ALL_PAIRS),
    "--device cpu": (_IMAGES, ALL_PAIRS),  # there exported networks run anyway
    "--batch-size": (_IMAGES,),
    "--num-workers": (_IMAGES,),
    "--flip": (_IMAGE_PAIRS,),
    "DATA": FOLDERS,
    "--pairs": _LISTS,
    "--image-root": _LISTS,
    "--protocol pairs": (FOLDER_PAIRS, *_LISTS),
    "--protocol lfw": _LISTS,
    "--protocol accuracy": (FOLDER_ACCURACY,),
    "--split": (FOLDER, FOLDER_ACCURACY),
    "--report": (PAIRS, *FOLDERS),
    "--suite": (SUITE,),
    "--scores": (SCORES,),
    "--against": (AGAINST, ROBUSTNESS, QUALITY),
    "--robustness": (ROBUSTNESS,),
    "--quality": (QUALITY,),
    "--plot": (ROBUSTNESS, QUALITY),
    "--all-pairs": (ALL_PAIRS,),
    "--resume": (ALL_PAIRS,),
    "--out": (OUT, AGAINST),
}


def measurement(options: argparse.Namespace) -> str:
    """What is measured: one of the constants of this module."""
    kind = _kind(options.network)
    requested = {
        SCORES: options.scores,
        SUITE: options.suite,
        ALL_PAIRS: options.all_pairs or options.resume,
        ROBUSTNESS: options.robustness,
        QUALITY: options.quality,
        AGAINST: options.against,
        OUT: options.out,
        EXPORTED: kind == EXPORTED,
        EMBEDDINGS: kind == EMBEDDINGS,
        PAIRS: options.pairs,
        FOLDER_ACCURACY: options.protocol == "accuracy",
        FOLDER_PAIRS: options.protocol == "pairs",
    }
    return next((name for name, given in requested.items() if given), FOLDER)


def refuse_options_without_effect(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Raise if an option was given that changes nothing of what is measured. Returns that, as :func:`measurement` does.

    Args:
        options: as given.
        parser: of the options and their defaults.

    Raises:
        ValueError: there is such an option, or the list of pairs is missing.
    """
    asked = measurement(options)
    if asked in _FURTHER and options.pairs is None:
        raise ValueError(
            "these options go with --pairs FILE (the list of a data folder: --pairs DATA/val_pairs.txt --image-root DATA/ver_data)"
        )
    kinds = {_kind(network) for network in (options.network, *(options.against or ()))}
    present = {asked}
    if asked not in (SCORES, ALL_PAIRS):
        present |= kinds & {_WEIGHTS}
        present |= {_IMAGES} if kinds != {EMBEDDINGS} else set()
        present |= {_IMAGE_PAIRS} if _IMAGES in present and asked != FOLDER_ACCURACY else set()
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        if value == action.default:
            continue
        name = action.option_strings[-1] if action.option_strings else action.dest.upper()
        name = f"{name} {value}" if f"{name} {value}" in EFFECTS else name
        if present.isdisjoint(EFFECTS[name]):
            given = " and ".join(dict.fromkeys([asked, *sorted(kinds - {_WEIGHTS})]))
            raise ValueError(
                f"{name} has no effect with {given}: leave it out; it goes with {', '.join(EFFECTS[name])}"
            )
    return asked


def is_exported(network: str | None) -> bool:
    """Whether this is a file of ``facezoo export``, by its name."""
    return Path(str(network)).suffix.lower() in (".onnx", ".pt2")


def is_embeddings(network: str | None) -> bool:
    """Whether this is a file of embeddings rather than a checkpoint."""
    if network is None or not Path(network).is_file():
        return False
    if Path(network).suffix.lower() in (".npz", ".parquet"):
        return True
    if Path(network).suffix.lower() != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(network, framework="pt") as content:
            return list(content.keys()) == ["embeddings"]
    except SafetensorError:
        return False


def _kind(network: str | None) -> str:
    return EXPORTED if is_exported(network) else EMBEDDINGS if is_embeddings(network) else _WEIGHTS
