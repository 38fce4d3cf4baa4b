from __future__ import annotations

import csv
import math
import os

import numpy as np
import pytest
import torch

from facezoo.courses import (
    SUBMISSION_FORMATS,
    SubmissionError,
    check_submission,
    submission_format,
    submission_terms,
    write_submission,
)


def _values(entry, rows):
    """Right values for a file of this format."""
    return {
        "classification": {"labels": [index * 7 % 100 for index in range(rows)]},
        "verification": {"scores": [math.cos(index) for index in range(rows)]},
        "gallery": {"identities": [f"n{index % 3:06d}" for index in range(rows)]},
        "both": {"labels": list(range(rows // 2)), "scores": [math.cos(index) for index in range(rows - rows // 2)]},
    }[entry.task]


@pytest.mark.parametrize("entry", SUBMISSION_FORMATS, ids=lambda entry: f"{entry.term}-{entry.task}")
def test_every_term_is_written_and_checked(entry, tmp_path):
    path = tmp_path / "new" / "submission.csv"
    check = write_submission(path, term=entry.term, task=entry.task, **_values(entry, 12), expected_rows=12)
    with path.open(newline="") as stream:
        lines = list(csv.reader(stream))
    assert tuple(lines[0]) == entry.header
    assert [line[0] for line in lines[1:]] == [entry.row_id(row) for row in range(12)]
    num_labels = 6 if entry.task == "both" else None
    again = check_submission(path, term=entry.term.lower(), task=entry.task, expected_rows=12, num_labels=num_labels)
    assert again == check
    assert check.rows == 12
    assert check.num_labels + check.num_scores == (0 if entry.task == "gallery" else 12)
    assert check.num_no_match == (4 if entry.task == "gallery" else 0)
    assert [item.name for item in path.parent.iterdir()] == ["submission.csv"]
    assert ("hand-out" in str(check)) == (entry.term == "F26")


def test_the_files_byte_by_byte(tmp_path):
    path = tmp_path / "s.csv"
    write_submission(path, term="F24", scores=[0.5, -0.25], expected_rows=2)
    assert path.read_bytes() == b"ID,Label\n0,0.5\n1,-0.25\n"
    write_submission(path, term="S22", task="verification", scores=np.float32([1, 0]))
    assert path.read_bytes() == b"id,match\n0,1.0\n1,0.0\n"
    write_submission(path, term="S22", task="classification", labels=torch.tensor([3, 6999]))
    assert path.read_bytes() == b"id,label\n000000.jpg,3\n000001.jpg,6999\n"
    write_submission(path, term="S23", task="gallery", identities=["n000012", "n000000"])
    assert path.read_bytes() == b"id,label\n0,n000012\n1,n000000\n"
    write_submission(path, term="F26", labels=[8630], scores=[0.5, 0.25])
    assert path.read_bytes() == b"ID,Label\n0,8630\n1,0.5\n2,0.25\n"


def test_terms_of_the_table():
    assert submission_terms() == ("S22", "F22", "S23", "F23", "S24", "F24", "S25", "F25", "S26", "F26")
    assert submission_format("S26").num_rows == 5000
    assert submission_format("s26").metric == "EER"
    assert "guess" in submission_format("F26").note
    keys = [(entry.term, entry.task) for entry in SUBMISSION_FORMATS]
    assert len(set(keys)) == len(keys)
    with pytest.raises(SubmissionError, match="unknown term 'F99'; known: S22"):
        submission_format("F99")
    with pytest.raises(SubmissionError, match="S22 has 2 files; say task= one of 'classification', 'verification'"):
        submission_format("S22")
    with pytest.raises(SubmissionError, match="F24 has no 'gallery' file; it has 'verification'"):
        submission_format("F24", "gallery")


def test_scores_survive_the_text_exactly(tmp_path):
    scores = torch.randn(200, generator=torch.Generator().manual_seed(0))
    write_submission(tmp_path / "s.csv", term="F24", scores=scores, expected_rows=200)
    with (tmp_path / "s.csv").open() as stream:
        read = [float(line.split(",")[1]) for line in stream.readlines()[1:]]
    assert torch.equal(torch.tensor(read), scores)


def test_official_count_unless_another_is_given(tmp_path):
    with pytest.raises(SubmissionError, match="3 rows, expected 5,000; pass expected_rows"):
        write_submission(tmp_path / "s.csv", term="F24", scores=[0.1, 0.2, 0.3])
    write_submission(tmp_path / "s.csv", term="F24", scores=np.linspace(-1, 1, 5000))
    with pytest.raises(SubmissionError, match="5,000 rows, expected 4,999"):
        check_submission(tmp_path / "s.csv", term="F24", expected_rows=4999)


def test_own_ids(tmp_path):
    names = ["b.jpg", "a.jpg"]
    path = tmp_path / "s.csv"
    write_submission(path, term="S22", task="classification", labels=[1, 2], ids=names)
    assert path.read_text() == "id,label\nb.jpg,1\na.jpg,2\n"
    check_submission(path, term="S22", task="classification", ids=names)
    with pytest.raises(SubmissionError, match=r"line 2: ID 'b.jpg', expected 'a.jpg'"):
        check_submission(path, term="S22", task="classification", ids=names[::-1])
    with pytest.raises(SubmissionError, match="1 ids but 2 values"):
        write_submission(path, term="S22", task="classification", labels=[1, 2], ids=["a.jpg"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": [0.1, math.nan]}, "line 3: 'nan' is not a finite score"),
        ({"scores": [math.inf, 0.1]}, "line 2: 'inf' is not a finite score"),
        ({"scores": [0.5, 0.5]}, "all 2 scores are 0.5: nothing was compared"),
        ({"scores": [[0.1], [0.2]]}, "one-dimensional"),
        ({"scores": [True, False]}, "booleans lose the ranking"),
        ({"labels": [1, 2]}, "takes scores; got labels"),
        ({}, "takes scores; got nothing"),
        ({"scores": [0.1, 0.2], "labels": [1, 2]}, "takes scores; got labels and scores"),
        ({"scores": []}, "no rows"),
    ],
)
def test_bad_scores_leave_the_old_file(tmp_path, options, message):
    path = tmp_path / "s.csv"
    path.write_text("old")
    with pytest.raises(SubmissionError, match=message):
        write_submission(path, term="F24", expected_rows=2, **options)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["s.csv"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], "integer class indices, got float64; logits need argmax"),
        ([0, 7000], r"line 3: '7000' is not a class index in 0\.\.6999"),
        ([-1, 0], "line 2: '-1' is not a class index"),
    ],
)
def test_bad_labels(tmp_path, labels, message):
    with pytest.raises(SubmissionError, match=message):
        write_submission(tmp_path / "s.csv", term="S22", task="classification", labels=labels)


def test_bad_identities(tmp_path):
    with pytest.raises(SubmissionError, match=r"line 3: no identity \('nan'\)"):
        write_submission(tmp_path / "s.csv", term="F23", task="gallery", identities=["n000001", float("nan")])


GOOD = "ID,Label\n0,0.5\n1,0.25\n2,0.75\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("ID,Label", "id,label"), "line 1: header 'id,label', expected 'ID,Label'"),
        (GOOD.replace("ID,Label\n", ""), "line 1: header '0,0.5'"),
        (GOOD.replace("2,0.75\n", ""), "2 rows, expected 3"),
        (GOOD + "3,0.1\n", "4 rows, expected 3"),
        (GOOD.replace("1,0.25", "0,0.25"), "line 3: ID '0' was on line 2 already"),
        ("ID,Label\n1,0.25\n0,0.5\n2,0.75\n", "line 2: ID '1', expected '0' .*order of the test list"),
        (GOOD.replace("1,0.25", "1,nan"), "line 3: 'nan' is not a finite score"),
        (GOOD.replace("1,0.25", "1,"), "line 3: '' is not a finite score"),
        (GOOD.replace("1,0.25", "1,0.25,9"), "line 3: 3 fields, expected 2"),
        (GOOD.replace("1,0.25", ""), "line 3: 0 fields"),
        ("", "header '', expected"),
    ],
)
def test_check_finds(tmp_path, text, message):
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(SubmissionError, match=message) as caught:
        check_submission(path, term="F24", expected_rows=3)
    assert "theirs.csv is not a valid F24 verification submission" in str(caught.value)


def test_check_tolerates_what_kaggle_does(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert check_submission(path, term="F24", expected_rows=3).rows == 3


def test_check_lists_the_first_five_of_many(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("ID,Label\n" + "".join(f"{row},nan\n" for row in range(12)))
    with pytest.raises(SubmissionError, match="and 7 more") as caught:
        check_submission(path, term="F24", expected_rows=12)
    assert len(str(caught.value).splitlines()) == 7


def test_check_of_both(tmp_path):
    path = tmp_path / "s.csv"
    write_submission(path, term="F26", labels=[5, 6, 7], scores=[0.1, 0.2], expected_rows=5)
    assert check_submission(path, term="F26", expected_rows=5, num_labels=3).num_scores == 2
    with pytest.raises(SubmissionError, match=r"line 5: '0\.1' is not a class index"):
        check_submission(path, term="F26", expected_rows=5, num_labels=4)
    with pytest.raises(SubmissionError, match="5 rows cannot be 5 class indices"):
        check_submission(path, term="F26", expected_rows=5, num_labels=5)
    with pytest.raises(ValueError, match="'both' only"):
        check_submission(path, term="F24", expected_rows=5, num_labels=3)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.csv"):
        check_submission(tmp_path / "no.csv", term="F24")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SubmissionError, match="not a CSV text file"):
        check_submission(tmp_path / "b.csv", term="F24")


def test_a_crash_while_writing_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "s.csv"
    path.write_text("old")

    def broken(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="No space left"):
        write_submission(path, term="F24", scores=[0.1, 0.2], expected_rows=2)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["s.csv"]


def test_decisions_are_no_scores(tmp_path):
    decisions = [0.0, 1.0] * 10
    with pytest.raises(SubmissionError, match=r"all 20 scores are 0.0 or 1.0: these are decisions; .*write the cosine"):
        write_submission(tmp_path / "s.csv", term="F24", scores=decisions, expected_rows=20)
    assert not (tmp_path / "s.csv").exists()
    assert write_submission(tmp_path / "s.csv", term="F24", scores=decisions[:9], expected_rows=9).doubts == ()
    assert write_submission(tmp_path / "s.csv", term="F24", scores=[0, 1, 0.5] * 7, expected_rows=21).rows == 21


def test_saturated_probabilities_and_distances_are_doubted(tmp_path):
    spread = np.linspace(0.2, 0.9, 50).tolist()
    fine = write_submission(tmp_path / "s.csv", term="F24", scores=spread, expected_rows=50)
    assert fine.doubts == ()
    assert str(fine).endswith("in order")
    saturated = write_submission(tmp_path / "s.csv", term="F24", scores=[1.0] * 11 + spread[:39], expected_rows=50)
    assert "11 of 50 scores are exactly 1.0: ties cannot be ranked" in str(saturated)
    fifth = write_submission(tmp_path / "s.csv", term="F24", scores=[1.0] * 10 + spread[:40], expected_rows=50)
    assert fifth.doubts == ()
    distances = write_submission(tmp_path / "s.csv", term="F24", scores=[2 * x for x in spread], expected_rows=50)
    assert "the scores run from 0.4 to 1.8, as distances do" in str(distances)
    assert distances == check_submission(tmp_path / "s.csv", term="F24", expected_rows=50)
    cosines = write_submission(tmp_path / "s.csv", term="F24", scores=[x - 0.5 for x in spread], expected_rows=50)
    assert cosines.doubts == ()


def test_row_numbers_where_the_term_names_images(tmp_path):
    with pytest.raises(
        SubmissionError, match=r"ID '0' is a row number; the term wants names of images, such as '000000"
    ):
        write_submission(tmp_path / "s.csv", term="S22", task="classification", labels=[1, 2], ids=["0", "1"])
    named = write_submission(
        tmp_path / "s.csv", term="S22", task="classification", labels=[1, 2], ids=["a7.jpg", "b.jpg"]
    )
    assert named.rows == 2
    assert write_submission(tmp_path / "s.csv", term="F24", scores=[0.1, 0.2], ids=["7", "9"]).rows == 2
