"""Protocols on small made-up sets with known answers; and what others have made: scores and embeddings in files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facezoo.cli import main
from facezoo.data import DataError, PairList
from facezoo.evaluation import kfold_accuracy, verification_metrics
from facezoo.evaluation.embedding import default_transform
from facezoo.evaluation.inputs import people_of_names, read_embeddings, read_scores, rows_of, score_rows
from facezoo.evaluation.protocols import (
    PROTOCOLS,
    find_protocols,
    group_errors,
    make_templates,
    run_protocol,
    suite_table,
    verification,
)
from facezoo.evaluation.protocols.protocol import Protocol, ProtocolResult
from facezoo.evaluation.protocols.verification import ten_folds
from facezoo.evaluation.robustness import DEGRADATIONS, _Degraded, measure_robustness
from facezoo.models import Preprocessing


class Colors:
    """A "network" whose embedding is the mean color of the image: what it says of pairs is known beforehand."""

    preprocessing = Preprocessing(img_size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def picture(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (8, 8), color)


def encoded(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    picture(color).save(file, "PNG")
    return file.getvalue()


RED, GREEN, BLUE, ROSE = (250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 60, 60)


def write_bin(path: Path, wrong: int = 0) -> None:
    """Ten folds of two genuine and two impostor pairs; ``wrong`` of the genuine ones look different."""
    images, flags = [], []
    for fold in range(10):
        images += [encoded(RED), encoded(BLUE if fold < wrong else ROSE), encoded(GREEN), encoded(GREEN)]
        images += [encoded(RED), encoded(GREEN), encoded(BLUE), encoded(RED)]
        flags += [True, True, False, False]
    path.write_bytes(pickle.dumps((images, flags)))


def test_pairs_in_ten_folds(tmp_path: Path) -> None:
    write_bin(tmp_path / "lfw.bin")
    write_bin(tmp_path / "agedb_30.bin", wrong=2)
    found = find_protocols(tmp_path)
    assert list(found.items()) == [("lfw", tmp_path / "lfw.bin"), ("agedb_30", tmp_path / "agedb_30.bin")]
    results = {name: run_protocol(name, place, Colors()) for name, place in found.items()}
    assert (results["lfw"].value, results["lfw"].error) == (1.0, 0.0)
    # Two of forty pairs are wrong, in two folds: 0.75 there, 1 in the others.
    assert results["agedb_30"].value == pytest.approx(0.95)
    assert results["agedb_30"].error == pytest.approx(np.std([0.75] * 2 + [1.0] * 8, ddof=1) / math.sqrt(10))
    table = suite_table(list(results.values()))
    assert table.splitlines()[0].split() == ["LFW", "AgeDB"]
    assert "95.00 ± 3.33" in table
    assert all(PROTOCOLS[name].measured for name in PROTOCOLS.list())


PAIR_PROTOCOLS = ("lfw", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw", "vgg2_fp", "xqlfw")


def tenfold_by_hand(scores: list[float], labels: list[bool]) -> list[float]:
    """Accuracies of ten folds, each at the best of all thresholds on the nine others, by trying them one after another."""
    folds = [index * 10 // len(labels) for index in range(len(labels))]
    accuracies = []
    for fold in range(10):
        train = [index for index in range(len(labels)) if folds[index] != fold]
        levels = sorted({scores[index] for index in train})
        cuts = [*((a + b) / 2 for a, b in itertools.pairwise(levels)), levels[0], levels[-1] + 1]
        right = {cut: sum((scores[index] >= cut) == labels[index] for index in train) for cut in cuts}
        best = [cut for cut in cuts if right[cut] == max(right.values())]
        test = [index for index in range(len(labels)) if folds[index] == fold]
        found = {sum((scores[index] >= cut) == labels[index] for index in test) / len(test) for cut in best}
        assert len(found) == 1  # the made-up pairs are such that the choice among equal thresholds does not matter
        accuracies.append(found.pop())
    return accuracies


@pytest.mark.parametrize("name", PAIR_PROTOCOLS)
def test_every_protocol_of_pairs_equals_direct_enumeration(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(PAIR_PROTOCOLS.index(name))
    images, flags, scores = [], [], []
    for index in range(40):
        same = index % 2 == 0
        wrong = rng.random() < 0.2
        first, second = (RED, (250, 30 if same != wrong else 200, 10))
        images += [encoded(first), encoded(second)]
        flags.append(same)
        vectors = [(np.array(color) / 255 - 0.5) / 0.5 for color in (first, second)]
        scores.append(float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])))
    (tmp_path / f"{name}.bin").write_bytes(pickle.dumps((images, flags)))
    found = find_protocols(tmp_path)
    assert list(found) == [name]
    result = run_protocol(name, found[name], Colors())
    scores = [round(score, 3) for score in scores]  # two levels: what rounding could part is one
    accuracies = tenfold_by_hand(scores, flags)
    assert result.value == pytest.approx(np.mean(accuracies))
    assert result.error == pytest.approx(np.std(accuracies, ddof=1) / math.sqrt(10))
    genuine = [score for score, same in zip(scores, flags, strict=True) if same]
    impostor = [score for score, same in zip(scores, flags, strict=True) if not same]
    wins = [(g > i) + 0.5 * (g == i) for g in genuine for i in impostor]
    assert result.figures["metrics"]["auc"] == pytest.approx(np.mean(wins))


def test_every_protocol_of_the_field_is_there_and_says_whether_it_was_run() -> None:
    assert {*PAIR_PROTOCOLS, "lfw_view1", "ijbb", "ijbc", "tinyface", "rfw"} <= set(PROTOCOLS.list())
    measured = {name for name in PROTOCOLS.list() if PROTOCOLS[name].measured == "measured here"}
    assert measured == {"lfw"}
    assert {PROTOCOLS[name].measured for name in PROTOCOLS.list()} == {"measured here", "never run on the real set"}


def test_the_table_has_the_order_of_the_field(tmp_path: Path) -> None:
    for name in ("vgg2_fp", "calfw", "lfw", "cplfw", "agedb_30", "cfp_fp", "cfp_ff"):
        write_bin(tmp_path / f"{name}.bin")
    assert list(find_protocols(tmp_path)) == ["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw", "cfp_ff", "vgg2_fp"]


@pytest.mark.filterwarnings("ignore:.*same as an earlier pair")
def test_groups_of_rfw(tmp_path: Path) -> None:
    lines = [
        "Ann0/Ann0_0001.png Ann0/Ann0_0002.png 1", "Bo0/Bo0_0001.png Bo0/Bo0_0002.png 1",
        *["Ann0/Ann0_0001.png Bo0/Bo0_0001.png 0"] * 3, *["Bo1/Bo1_0001.png Ann1/Ann1_0002.png 0"] * 97,
    ]  # fmt: skip
    for group in ("African", "Asian"):
        write_list(tmp_path / "rfw" / group)
        (tmp_path / "rfw" / group / "pairs.txt").write_text("\n".join(lines))
    # In one group a person looks nearly like another: three impostor pairs of a hundred, of both groups 1.5 %.
    for number in (1, 2):
        picture(ROSE).save(tmp_path / "rfw" / "Asian" / "images" / "Bo0" / f"Bo0_000{number}.png")
    picture((250, 90, 90)).save(tmp_path / "rfw" / "African" / "images" / "Ann0" / "Ann0_0002.png")
    result = run_protocol("rfw", find_protocols(tmp_path)["rfw"], Colors())
    groups = result.figures["groups"]
    assert [groups[name]["num_impostor"] for name in ("African", "Asian")] == [100, 100]
    # A FAR of 1 % over both allows two: the three come together, so the threshold lies above them, and above one genuine pair.
    assert (groups["African"]["far"], groups["Asian"]["far"]) == (0.0, 0.0)
    assert (groups["African"]["frr"], groups["Asian"]["frr"]) == (0.5, 0.0)
    assert result.value == 0.5
    assert groups["African"]["frr_interval"][0] < 0.5 < groups["African"]["frr_interval"][1]


def test_folds_are_tenths_or_drawn() -> None:
    blocks = (torch.arange(40) // 2 % 2).bool()
    assert ten_folds(blocks).tolist() == [index // 4 for index in range(40)]
    sorted_kinds = torch.arange(40) < 20
    folds = ten_folds(sorted_kinds)
    assert all(set(sorted_kinds[folds == fold].tolist()) == {True, False} for fold in range(10))


def write_list(folder: Path) -> None:
    lines = ["2\t2"]
    for fold in range(2):
        for name, color in ((f"Ann{fold}", RED), (f"Bo{fold}", GREEN)):
            (folder / "images" / name).mkdir(parents=True)
            for number in (1, 2):
                picture(color).save(folder / "images" / name / f"{name}_000{number}.png")
        lines += [f"Ann{fold}\t1\t2", f"Bo{fold}\t1\t2", f"Ann{fold}\t1\tBo{fold}\t1", f"Bo{fold}\t2\tAnn{fold}\t2"]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")


def test_lists_keep_their_folds_and_view_1_its_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_list(tmp_path / "xqlfw")
    result = run_protocol("xqlfw", find_protocols(tmp_path)["xqlfw"], Colors())
    assert result.value == 1.0
    assert result.figures["kfold"]["folds"] == [0, 1]
    assert result.figures["metrics"]["by_people"]["num_people"] == 4
    write_list(tmp_path / "lfw")
    text = (tmp_path / "lfw" / "pairs.txt").read_text().splitlines()
    for part in ("Train", "Test"):
        (tmp_path / "lfw" / f"pairsDev{part}.txt").write_text("\n".join(["2", *text[1:5]]) + "\n")
    found = find_protocols(tmp_path)
    assert {"lfw", "lfw_view1", "xqlfw"} <= set(found)
    assert run_protocol("lfw_view1", found["lfw_view1"], Colors()).value == 1.0
    monkeypatch.setattr(verification, "pair_scores", lambda *_: torch.tensor([0.5, 0.5, 0.2, 0.2]))
    monkeypatch.setattr(verification, "best_threshold", lambda *_: 0.5)
    assert run_protocol("lfw_view1", found["lfw_view1"], Colors()).value == 1.0  # a score at the threshold is accepted


def test_templates_equal_direct_enumeration() -> None:
    rng = np.random.default_rng(0)
    embeddings = torch.from_numpy(rng.normal(size=(12, 4)).astype(np.float32))
    templates = [7, 7, 7, 3, 3, 7, 9, 9, 9, 9, 3, 9]
    media = [1, 1, 2, 1, 1, 2, 5, 5, 6, 6, 4, 6]
    quality = torch.from_numpy(rng.uniform(0.5, 1, 12).astype(np.float32))
    found, numbers = make_templates(embeddings, templates, media, quality)
    assert numbers == [3, 7, 9]
    for row, number in enumerate(numbers):
        total = np.zeros(4)
        for medium in {m for t, m in zip(templates, media, strict=True) if t == number}:
            own = [i for i in range(12) if templates[i] == number and media[i] == medium]
            total += np.mean([embeddings[i].numpy() * float(quality[i]) for i in own], axis=0)
        np.testing.assert_allclose(found[row].numpy(), total / np.linalg.norm(total), rtol=1e-5)


def write_ijb(folder: Path) -> None:
    colors = {1: RED, 2: GREEN, 3: BLUE, 4: ROSE, 5: GREEN, 6: (200, 200, 10)}  # template -> color
    (folder / "meta").mkdir(parents=True)
    (folder / "aligned").mkdir()
    media, scores = [], []
    for template, color in colors.items():
        for image in range(2):
            name = f"{template}_{image}.png"
            picture(color).save(folder / "aligned" / name)
            media.append(f"{name} {template} {image}")
            scores.append(" ".join([name, *["1"] * 10, "0.9"]))
    meta = folder / "meta"
    (meta / "ijbc_face_tid_mid.txt").write_text("\n".join(media) + "\n")
    (meta / "ijbc_name_5pts_score.txt").write_text("\n".join(scores) + "\n")
    pairs = ["1 4 1", "2 5 1", "1 2 0", "1 3 0", "2 3 0", "4 5 0", *["3 5 0"] * 10]
    (meta / "ijbc_template_pair_label.txt").write_text("\n".join(pairs) + "\n")
    (meta / "ijbc_1N_gallery_G1.csv").write_text("TEMPLATE_ID,SUBJECT_ID,X\n1,ann,0\n2,bo,0\n")
    (meta / "ijbc_1N_probe_mixed.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n4,ann\n5,bo\n3,cy\n6,dee\n")


def test_ijb_one_to_one_and_one_to_many(tmp_path: Path) -> None:
    write_ijb(tmp_path / "IJBC")
    place = find_protocols(tmp_path)["ijbc"]
    result = run_protocol("ijbc", place, Colors())
    assert math.isnan(result.value)  # 14 impostor pairs do not resolve 1e-4
    assert result.figures["verification"]["eer"] == 0.0
    assert result.figures["verification"]["tar_at_far"]["0.1"] == 1.0
    search = result.figures["identification_G1"]
    assert (search["num_mated"], search["num_nonmated"], search["rank"]["1"]) == (2, 2, 1.0)
    assert "identification_G2" not in result.figures
    (place / "meta" / "ijbc_1N_gallery_G2.csv").write_text("TEMPLATE_ID,SUBJECT_ID,X\n3,cy,0\n")
    both = run_protocol("ijbc", place, Colors()).figures
    assert both["identification_G1"] == search
    assert (both["identification_G2"]["num_mated"], both["identification_G2"]["num_nonmated"]) == (1, 3)
    assert "not resolvable" in suite_table([result])
    (place / "meta" / "ijbc_template_pair_label.txt").write_text("1 99 1\n")
    with pytest.raises(DataError, match="no template 99"):
        run_protocol("ijbc", place, Colors())
    (place / "aligned").rename(place / "loose_crop")
    with pytest.raises(DataError, match="align the images of loose_crop"):
        run_protocol("ijbc", place, Colors())
    (place / "meta" / "ijbc_name_5pts_score.txt").write_text("a 1 2\n")
    with pytest.raises(DataError, match="line 1: 3 fields, expected 12"):
        run_protocol("ijbc", place, Colors())


def test_tinyface_searches_among_distractors(tmp_path: Path) -> None:
    root = tmp_path / "tinyface"
    for part, pictures in {
        "Probe": {"1_1": RED, "2_1": (120, 130, 10)},
        "Gallery_Match": {"1_2": ROSE, "2_2": GREEN},
        "Gallery_Distractor": {"x_1": (120, 131, 10), "x_2": BLUE, "y_1": (110, 120, 12)},
    }.items():
        (root / part).mkdir(parents=True)
        for name, color in pictures.items():
            picture(color).save(root / part / f"{name}.png")
    result = run_protocol("tinyface", find_protocols(tmp_path)["tinyface"], Colors())
    assert result.value == 0.5  # the second probe looks like two distractors
    assert result.figures["rank"] == {"1": 0.5, "5": 1.0, "10": 1.0, "20": 1.0}
    assert result.figures["gallery_size"] == 5
    picture(RED).save(root / "Gallery_Distractor" / "x_2.png")
    # A distractor is nobody, so not the person of the first probe either, whom it resembles most.
    assert run_protocol("tinyface", root, Colors()).value == 0.0


def test_groups_share_one_threshold() -> None:
    scores = [0.9, 0.8, 0.1, 0.2, 0.9, 0.4, 0.6, 0.1]
    labels = [1, 1, 0, 0, 1, 1, 0, 0]
    report = group_errors(scores, labels, ["a"] * 4 + ["b"] * 4, threshold=0.5)
    assert (report.groups["a"].far, report.groups["a"].frr) == (0.0, 0.0)
    assert (report.groups["b"].far, report.groups["b"].frr) == (0.5, 0.5)
    assert report.far_ratio == math.inf
    edge = group_errors(scores, labels, ["a"] * 4 + ["b"] * 4, threshold=0.8)
    assert edge.groups["a"].frr == 0.0  # a score at the threshold is accepted
    edge = group_errors(scores, labels, ["a"] * 4 + ["b"] * 4, threshold=0.6)
    assert edge.groups["b"].far == 0.5  # that of an impostor pair too
    chosen = group_errors(scores, labels, ["a"] * 4 + ["b"] * 4, far=0.25)
    assert chosen.threshold == verification_metrics(scores, labels, fars=[0.25], bootstrap=0).threshold_at_far[0.25]
    assert chosen.groups["b"].far_interval[0] < chosen.groups["b"].far < chosen.groups["b"].far_interval[1]
    assert json.dumps(report.to_dict())
    with pytest.raises(ValueError, match=r"FAR 0.01 is not resolvable from 4 impostor pairs"):
        group_errors(scores, labels, ["a"] * 8)
    with pytest.raises(ValueError, match="one group per pair: 1 groups for 8 pairs"):
        group_errors(scores, labels, ["a"])


def test_a_third_party_adds_a_protocol(tmp_path: Path) -> None:
    from facezoo.evaluation.protocols import Protocol, ProtocolResult

    own = Protocol(
        "Own",
        "for tests",
        lambda folder: folder / "own",
        lambda path, embed: ProtocolResult("own", "x", 0.5, None, "", {}),
    )
    PROTOCOLS.register("own", own)
    try:
        assert find_protocols(tmp_path)["own"] == tmp_path / "own"
        assert run_protocol("own", tmp_path, Colors()).value == 0.5
    finally:
        PROTOCOLS.unregister("own")


# -- files of others, from the command line -------------------------------------------------------------------------------------


def said(capsys: Any, *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_scores_in_a_file(tmp_path: Path, capsys: Any) -> None:
    scores, labels = [0.9, 0.8, 0.3, 0.7, 0.2, 0.1, 0.35, 0.4], [1, 1, 1, 1, 0, 0, 0, 0]
    rows = [f"{s},x,{y},{i % 2}" for i, (s, y) in enumerate(zip(scores, labels, strict=True))]
    file = tmp_path / "s.csv"
    file.write_text("\n".join(["score,other,label,fold", *rows]))
    found = json.loads(said(capsys, "evaluate", "--scores", file, "--json"))
    assert found["metrics"]["eer"] == verification_metrics(scores, labels, bootstrap=0).eer
    assert found["kfold"]["mean"] == kfold_accuracy(scores, labels, [i % 2 for i in range(8)]).mean
    assert "EER" in said(capsys, "evaluate", "--scores", file)
    for text, message in (
        ("score\n1\n", "no column label"), ("s,label\n1,1\n", "needs a header with a column 'score'"),
        ("score,label\n1,1\nx,0\n", "line 3: score 'x' is not a number"), ("score,label\n1,2\n", "label is 1"),
        ("score,label\n1\n", "line 2: label 'None' is not a number"), ("", "needs a header"),
    ):  # fmt: skip
        file.write_text(text)
        assert message in said(capsys, "evaluate", "--scores", file, status=2)
    assert "no file of scores" in said(capsys, "evaluate", "--scores", tmp_path / "none.csv", status=2)
    assert "name a network" in said(capsys, "evaluate", status=2)


def test_scores_with_groups_give_error_rates_by_group(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    groups = np.where(rng.random(400) < 0.4, "a,b", "c")
    scores = rng.normal(labels + 0.5 * (groups == "c"), 1)
    rows = [f'{s!r},{y},"{g}"' for s, y, g in zip(scores.tolist(), labels, groups, strict=True)]
    file = tmp_path / "s.csv"
    file.write_text("\n".join(["score,label,group", *rows]))
    found = json.loads(said(capsys, "evaluate", "--scores", file, "--json"))["groups"]
    assert found["far"] == 0.1  # at 0.01 two of the 200 impostor pairs would decide
    limit = verification_metrics(scores, labels, fars=[0.1], bootstrap=0).threshold_at_far[0.1]
    assert found["threshold"] == limit
    for name in ("a,b", "c"):
        own = groups == name
        assert found["groups"][name]["far"] == np.mean(scores[own & (labels == 0)] >= limit)
        assert found["groups"][name]["frr"] == np.mean(scores[own & (labels == 1)] < limit)
    rates = [found["groups"][name]["far"] for name in ("a,b", "c")]
    assert found["far_ratio"] == max(rates) / min(rates)
    assert "highest FAR of a group over the lowest" in said(capsys, "evaluate", "--scores", file)


def some_pairs(folder: Path) -> Path:
    write_list(folder)
    lines = [
        "Ann0/Ann0_0001.png Ann0/Ann0_0002.png 1", "Bo0/Bo0_0001.png Bo0/Bo0_0002.png 1",
        "Ann0/Ann0_0001.png Bo0/Bo0_0001.png 0", "Bo1/Bo1_0001.png Ann1/Ann1_0002.png 0",
    ]  # fmt: skip
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_embeddings_in_a_file(suffix: str, tmp_path: Path, capsys: Any) -> None:
    pairs = some_pairs(tmp_path)
    names = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.png"))
    embeddings = np.random.default_rng(0).normal(size=(len(names), 5)).astype(np.float32)
    file = tmp_path / f"e{suffix}"
    if suffix == ".npz":
        np.savez(file, embeddings=embeddings, names=np.array(names))
    elif suffix == ".safetensors":
        from facezoo.weights import save_file_atomic

        save_file_atomic(file, {"embeddings": torch.from_numpy(embeddings)}, {"names": json.dumps(names)})
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"name": names, "embedding": list(embeddings)}), file)
    out = tmp_path / "out.csv"
    arguments = ("evaluate", file, "--pairs", pairs, "--image-root", tmp_path / "images")
    found = json.loads(said(capsys, *arguments, "--json", "--out", out))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = []
    for line, row in zip(pairs.read_text().splitlines(), rows, strict=True):
        left, right, label = line.split()
        expected.append(float(unit[names.index(left)] @ unit[names.index(right)]))
        assert float(row["score"]) == pytest.approx(expected[-1], abs=1e-6)
        assert row["label"] == label
    assert found["list.txt"]["metrics"]["eer"] == verification_metrics(expected, [1, 1, 0, 0], bootstrap=0).eer
    again = read_scores(out)
    assert again.labels is not None
    assert again.labels.tolist() == [True, True, False, False]


def test_unlabeled_pairs_write_their_scores(tmp_path: Path, capsys: Any) -> None:
    pairs = some_pairs(tmp_path)
    pairs.write_text("\n".join(" ".join(line.split()[:2]) for line in pairs.read_text().splitlines()))
    names = [path.name for path in (tmp_path / "images").rglob("*.png")]
    np.savez(tmp_path / "e.npz", embeddings=np.eye(8, dtype=np.float32), names=np.array(names))
    arguments = ("evaluate", tmp_path / "e.npz", "--pairs", pairs, "--image-root", tmp_path / "images")
    assert "write the scores with --out" in said(capsys, *arguments, status=2)
    compared = ("--against", tmp_path / "e.npz", "--out", tmp_path / "s.csv")
    assert "has no labels: write the scores with --out FILE and without" in said(
        capsys, *arguments, *compared, status=2
    )
    assert "4 scores" in said(capsys, *arguments, "--out", tmp_path / "s.csv")
    assert read_scores(tmp_path / "s.csv").scores.tolist() == [0.0] * 4


def test_embeddings_that_are_none(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"x"), ("b.safetensors", b"x" * 20), ("c.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="holds no embeddings with names"):
            read_embeddings(tmp_path / name)
    np.savez(tmp_path / "d.npz", embeddings=np.full((2, 3), np.nan, np.float32), names=np.array(["a", "b"]))
    with pytest.raises(DataError, match="NaN or infinite"):
        read_embeddings(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", embeddings=np.zeros((2, 3), np.float32), names=np.array(["a"]))
    with pytest.raises(DataError, match=r"got \(2, 3\) and 1 names"):
        read_embeddings(tmp_path / "e.npz")
    (tmp_path / "f.txt").write_text("")
    with pytest.raises(DataError, match="are read from"):
        read_embeddings(tmp_path / "f.txt")
    table = torch.eye(3)
    assert rows_of([Path("/x/a/1.jpg")], table, ["b/1.jpg", "a/1.jpg", "a/2.jpg"]).argmax() == 1
    with pytest.raises(DataError, match="no embeddings have that name"):
        rows_of([Path("3.jpg")], table, ["b/1.jpg", "a/1.jpg", "a/2.jpg"])
    with pytest.raises(DataError, match="2 embeddings have that name"):
        rows_of([Path("1.jpg")], table, ["b/1.jpg", "a/1.jpg", "a/2.jpg"])


def test_names_with_commas_are_quoted() -> None:
    pairs = PairList((Path('a,"b.jpg'), Path("c.jpg")), torch.tensor([0]), torch.tensor([1]))
    (row,) = csv.DictReader(io.StringIO(score_rows(pairs, torch.tensor([0.5]))))
    assert row == {"left": 'a,"b.jpg', "right": "c.jpg", "score": "0.5"}


def test_networks_of_hw2p2_give_tuples_and_dictionaries() -> None:
    from facezoo.evaluation import classify_images, embed_images

    images = torch.randn(4, 3, 8, 8)
    plain = embed_images(Colors(), images)
    colors = Colors()
    assert torch.equal(embed_images(lambda x: {"out": x, "feats": colors(x)}, images), plain)
    assert torch.equal(embed_images(lambda x: (colors(x), x), images), plain)
    assert classify_images(lambda x: {"feats": x, "out": colors(x)}, images).tolist() == plain.argmax(dim=1).tolist()
    assert classify_images(lambda x: (x, colors(x)), images).tolist() == plain.argmax(dim=1).tolist()


# -- robustness -----------------------------------------------------------------------------------------------------------------


def test_degradations_change_images_and_repeat(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for name, (degrade, strengths, unit) in DEGRADATIONS.items():
        assert unit
        changes = []
        for strength in strengths:
            first, again = (
                np.asarray(degrade(image, strength, np.random.default_rng(3)), np.float64) for _ in range(2)
            )
            assert np.array_equal(first, again), name
            assert first.shape == (32, 32, 3)
            changes.append(np.abs(first - np.asarray(image)).mean())
        assert changes[0] > 0, name
        if name not in ("rotation", "shift"):
            assert changes == sorted(changes), name


def test_the_table_holds_the_clean_figure_and_one_per_strength(tmp_path: Path) -> None:
    from facezoo.data import read_lfw_pairs

    write_list(tmp_path)
    pairs = read_lfw_pairs(tmp_path / "pairs.txt", tmp_path / "images")
    table = measure_robustness(Colors(), pairs, names=["blur", "brightness"], bootstrap=20)
    assert table.clean.eer == 0.0
    assert [len(found) for found in table.figures.values()] == [3, 3]
    assert "blur" in str(table)

    class Half(Colors):
        """What is dark looks like the opposite: all impostor pairs of red and green, none of them as before."""

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            color = super().__call__(images)
            return torch.where(images.amax(dim=(1, 2, 3))[:, None] < 0, -color, color)

    dark = measure_robustness(Half(), pairs, names=["brightness"], bootstrap=0)
    assert dark.clean.eer == 0.0
    assert dark.figures["brightness"][2].eer > 0.4  # only one of the two images is dark
    assert table.to_dict()["blur"][2]["strength"] == 4
    with pytest.raises(ValueError, match="unknown degradation 'fog'"):
        measure_robustness(Colors(), pairs, names=["fog"])


def test_a_protocol_has_its_own_flip_and_noise_differs_from_image_to_image(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (16, 16), (90, 120, 150)).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]

    def run(path: Path, embed: Any) -> ProtocolResult:
        return ProtocolResult("own", "x", float(embed(paths)[0].norm()), None, "", {})

    own = Protocol("Own", "a test", lambda folder: folder, run, normalize=False, flip="sum")
    PROTOCOLS.register("own", own)
    try:
        summed, plain = (run_protocol("own", tmp_path, Colors(), flip=flip).value for flip in (None, "none"))
    finally:
        PROTOCOLS.unregister("own")
    assert summed == pytest.approx(2 * plain)
    pair = PairList(tuple(paths[:2]), torch.tensor([0]), torch.tensor([1]))
    noisy = _Degraded(pair, default_transform(Colors()), DEGRADATIONS["noise"][0], 50, 0)
    assert torch.equal(noisy[0], noisy[0])
    assert not torch.equal(noisy[0], noisy[1])


def test_names_of_one_image_each_say_nothing() -> None:
    with pytest.raises(DataError, match="do not say who is on the images"):
        people_of_names([f"p{row}_1.jpg" for row in range(5)])
