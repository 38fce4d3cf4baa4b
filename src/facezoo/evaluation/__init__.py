"""Evaluation: verification figures with intervals, protocols, embeddings, report.

Importing it loads neither torchvision nor matplotlib.
"""

from __future__ import annotations

from facezoo.evaluation.classification import (
    ClassificationAccuracy,
    classification_accuracy,
    classify_images,
    wilson_interval,
)
from facezoo.evaluation.det import DetCurve, det_with_intervals
from facezoo.evaluation.embedding import embed_files, embed_images
from facezoo.evaluation.metrics import (
    RocCurve,
    VerificationMetrics,
    best_threshold,
    roc_curve,
    verification_metrics,
)
from facezoo.evaluation.pairs import (
    KFoldAccuracy,
    PairEvaluation,
    evaluate_pairs,
    kfold_accuracy,
    make_folds,
    pair_scores,
)
from facezoo.evaluation.plots import (
    PlotUnavailableError,
    figure_png,
    plot_det_bands,
    plot_discard,
    plot_robustness,
    plot_roc,
    plot_score_histogram,
    plot_training_curves,
)
from facezoo.evaluation.report import Report, read_training_log, write_report
from facezoo.evaluation.search import NO_MATCH, gallery_threshold, identify
from facezoo.moved import forward

__all__ = [
    "NO_MATCH",
    "ClassificationAccuracy",
    "DetCurve",
    "KFoldAccuracy",
    "PairEvaluation",
    "PlotUnavailableError",
    "Report",
    "RocCurve",
    "VerificationMetrics",
    "best_threshold",
    "classification_accuracy",
    "classify_images",
    "det_with_intervals",
    "embed_files",
    "embed_images",
    "evaluate_pairs",
    "figure_png",
    "gallery_threshold",
    "identify",
    "kfold_accuracy",
    "make_folds",
    "pair_scores",
    "plot_det_bands",
    "plot_discard",
    "plot_robustness",
    "plot_roc",
    "plot_score_histogram",
    "plot_training_curves",
    "read_training_log",
    "roc_curve",
    "verification_metrics",
    "wilson_interval",
    "write_report",
]

_COURSES = (
    *("SUBMISSION_FORMATS", "SubmissionCheck", "SubmissionError", "SubmissionFormat"),
    *("check_submission", "submission_format", "submission_terms", "write_submission"),
)
__getattr__ = forward(
    __name__, dict.fromkeys(_COURSES, "facezoo.courses") | {"submission": "facezoo.courses.submission"}
)
