"""Verification pairs in ten folds: LFW and what was made in its likeness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from facezoo.data import DataError, PairList
from facezoo.evaluation.classification import wilson_interval
from facezoo.evaluation.clusters import people_of
from facezoo.evaluation.inputs import open_pairs, ten_folds
from facezoo.evaluation.metrics import best_threshold, verification_metrics
from facezoo.evaluation.pairs import KFoldAccuracy, kfold_accuracy, pair_scores
from facezoo.evaluation.protocols.protocol import MEASURED, NEVER_RUN, PROTOCOLS, Embed, Protocol, ProtocolResult


def run_pairs(name: str) -> Callable[[Path, Embed], ProtocolResult]:
    """The figures of a file of pairs: ``.bin`` or parquet with images inside, or a list with images beside it."""

    def run(path: Path, embed: Embed) -> ProtocolResult:
        pairs = read_list(path)
        if pairs.labels is None:
            raise DataError(f"{path} has no labels")
        scores = pair_scores(embed(pairs.source or pairs.paths), pairs.left, pairs.right)
        kfold = kfold_accuracy(scores, pairs.labels, ten_folds(pairs.labels) if pairs.folds is None else pairs.folds)
        metrics = verification_metrics(scores, pairs.labels, people=people_of(pairs))
        return _result(name, kfold, f"{len(kfold.per_fold)}-fold accuracy {kfold}\n{metrics}", metrics.to_dict())

    return run


def run_view_1(path: Path, embed: Embed) -> ProtocolResult:
    """LFW's View 1: the threshold from ``pairsDevTrain.txt``, the accuracy on ``pairsDevTest.txt``."""
    lists = [read_list(path / f"pairsDev{part}.txt") for part in ("Train", "Test")]
    scored = [(pair_scores(embed(pairs.paths), pairs.left, pairs.right), pairs.labels) for pairs in lists]
    (train, train_labels), (test, labels) = scored
    assert train_labels is not None  # a list in LFW's form has them
    assert labels is not None
    threshold = best_threshold(train, train_labels)
    right = int(((test >= threshold) == labels).sum())
    accuracy, interval = right / len(labels), wilson_interval(right, len(labels))
    text = (
        f"accuracy {accuracy * 100:.2f} % [{interval[0] * 100:.2f}, {interval[1] * 100:.2f}], score >= {threshold:.6f}"
    )
    figures = {"accuracy": accuracy, "accuracy_interval": list(interval), "threshold": threshold}
    return ProtocolResult("lfw_view1", "accuracy", accuracy, None, text, figures)


def _result(name: str, kfold: KFoldAccuracy, text: str, metrics: dict[str, object]) -> ProtocolResult:
    return ProtocolResult(
        name, "accuracy", kfold.mean, kfold.std_error, text, {"kfold": kfold.to_dict(), "metrics": metrics}
    )


def read_list(file: Path) -> PairList:
    """Pairs with their images inside, or a list with its images in ``images/`` beside it or around it."""
    root = file.parent / "images"
    return open_pairs(file, root if file.suffix == ".txt" and root.is_dir() else None)


def _finder(*names: str) -> Callable[[Path], Path | None]:
    """``NAME.bin``, ``NAME.parquet``, a folder ``NAME`` of parquet files, or ``NAME/pairs.txt`` with images beside it."""

    def find(folder: Path) -> Path | None:
        for name in names:
            for place in (f"{name}.bin", f"{name}.parquet", f"{name}/pairs.txt", f"{name}/{name}_pairs.txt"):
                if (folder / place).is_file():
                    return folder / place
            if (folder / name).is_dir() and any((folder / name).glob("*.parquet")):
                return folder / name
        return None

    return find


def _find_view_1(folder: Path) -> Path | None:
    return next((place for place in (folder / "lfw", folder) if (place / "pairsDevTest.txt").is_file()), None)


for _name, _title, _about, _places in (
    ("lfw", "LFW", "Labeled Faces in the Wild, View 2, ten folds (Huang et al. 2007)", ("lfw",)),
    ("cfp_fp", "CFP-FP", "frontal against profile (Sengupta et al. 2016)", ("cfp_fp",)),
    ("cfp_ff", "CFP-FF", "frontal against frontal (Sengupta et al. 2016)", ("cfp_ff",)),
    ("agedb_30", "AgeDB", "thirty years apart (Moschoglou et al. 2017)", ("agedb_30", "agedb")),
    ("calfw", "CALFW", "LFW across ages, 1708.08197", ("calfw",)),
    ("cplfw", "CPLFW", "LFW across poses (Zheng and Deng 2018)", ("cplfw",)),
    ("vgg2_fp", "VGG2-FP", "VGGFace2, frontal against profile", ("vgg2_fp",)),
    ("xqlfw", "XQLFW", "LFW across qualities, 2108.10290", ("xqlfw",)),
):
    PROTOCOLS.register(
        _name,
        Protocol(
            _title, _about, _finder(*_places), run_pairs(_name), measured=MEASURED if _name == "lfw" else NEVER_RUN
        ),
    )
PROTOCOLS.register(
    "lfw_view1",
    Protocol(
        "LFW View 1",
        "LFW's development pairs: threshold and test apart (Huang et al. 2007)",
        _find_view_1,
        run_view_1,
    ),
)
