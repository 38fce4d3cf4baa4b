"""Course support: HW2P2 of CMU 11-785 and the files of its Kaggle competitions."""

from __future__ import annotations

from facezoo.courses.submission import (
    SUBMISSION_FORMATS,
    SubmissionCheck,
    SubmissionError,
    SubmissionFormat,
    check_submission,
    submission_format,
    submission_terms,
    write_submission,
)

__all__ = [
    "SUBMISSION_FORMATS",
    "SubmissionCheck",
    "SubmissionError",
    "SubmissionFormat",
    "check_submission",
    "submission_format",
    "submission_terms",
    "write_submission",
]
