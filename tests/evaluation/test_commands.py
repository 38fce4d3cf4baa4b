"""``facezoo gallery``, ``identify``, ``calibrate`` and ``verify``, from the command line alone."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import facezoo
import tiny_faces  # noqa: F401  (registers the tiny networks)
from facezoo.cli import main
from facezoo.data.align import template_points
from facezoo.deploy import load_trained
from facezoo.evaluation.gallery import Gallery
from facezoo.weights import CheckpointError, save_pretrained


def write_people(root: Path, people: int, photos: int, first: int = 0) -> Path:
    rng = np.random.default_rng(5)
    patterns = rng.integers(20, 235, (40, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    for person in range(first, first + people):
        for photo in range(photos):
            path = root / f"person{person:02d}" / f"person{person:02d}_{photo:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(1000 * person + photo).normal(0, 4, (16, 16, 3))
            Image.fromarray((patterns[person] + noise).clip(0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("net")
    model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
    save_pretrained(model, folder, card=False)
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), 8, 5)


def said(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_from_a_folder_to_names(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    gallery, net = tmp_path / "gallery.safetensors", f"local-dir:{network}"
    text = said(capsys, "gallery", "build", people, "--network", net, "--out", gallery, "--device", "cpu")
    assert "8 people, 40 photos" in text
    photo, other = people / "person03" / "person03_0001.png", people / "person05" / "person05_0002.png"
    answers = json.loads(said(capsys, "identify", gallery, photo, other, "--fpir", "0.2", "--json", "--device", "cpu"))
    assert [answer["candidates"][0]["name"] for answer in answers] == ["person03", "person05"]
    assert len(answers[0]["candidates"]) == 3
    for answer in answers:
        named = answer["candidates"][0]["cosine"] >= answer["threshold"]
        assert answer["name"] == (answer["candidates"][0]["name"] if named else None)
    assert "unknown; nearest: person03" in said(
        capsys, "identify", gallery, photo, "--threshold", "1", "--device", "cpu"
    )
    table = tmp_path / "who.csv"
    assert (
        said(capsys, "identify", gallery, photo, "--fpir", "0.2", "--top", "2", "--out", table, "--device", "cpu") == ""
    )
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["candidate"] == "person03"
    assert float(rows[0]["cosine"]) == pytest.approx(answers[0]["candidates"][0]["cosine"], abs=1e-5)

    assert "7 people" in said(capsys, "gallery", "remove", gallery, "person03")
    assert "person03" not in said(capsys, "gallery", "list", gallery)
    assert "is not in the gallery" in said(capsys, "gallery", "remove", gallery, "person03", status=2)
    text = said(capsys, "gallery", "add", gallery, "person03", people / "person03", "--device", "cpu")
    assert "person03 with 5 photos; 8 people, 40 photos" in text
    assert json.loads(said(capsys, "gallery", "list", gallery, "--json"))["people"]["person03"] == 5

    probes = write_people(tmp_path / "probes", 12, 3)
    text = said(capsys, "gallery", "test", gallery, probes, "--fpir", "0.1", "--device", "cpu")
    assert "24 mated and 12 non-mated probes of 12 people in 8 templates" in text
    assert "from the gallery's own photos for FPIR 0.1: TPIR" in text
    found = json.loads(said(capsys, "gallery", "test", gallery, probes, "--fpir", "0.1", "--json", "--device", "cpu"))
    assert 0 <= found["at_own_threshold"]["0.1"]["fpir"] <= 1


def test_a_gallery_whose_network_does_not_open_says_what_to_give(network: Path, tmp_path: Path, capsys) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, weights)  # of another library: it needs --model
    for source in (str(weights), f"local-dir:{tmp_path / 'gone'}", "no_such_network"):
        gallery = tmp_path / "gallery.safetensors"
        Gallery.empty(8, source=source).add({"Ann": torch.eye(8)[:2]}).save(gallery)
        text = said(capsys, "identify", gallery, tmp_path / "x.png", "--threshold", "0.5", status=2)
        assert f"the network {source}, with which {gallery} was built, cannot be opened: give --network" in text


def test_a_saved_folder_is_a_network_by_its_path_alone(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    gallery, photo = tmp_path / "gallery.safetensors", people / "person03" / "person03_0001.png"
    said(capsys, "gallery", "build", people, "--network", network, "--out", gallery, "--device", "cpu")
    assert "person03" in said(capsys, "identify", gallery, photo, "--threshold", "-1", "--device", "cpu")
    both = [load_trained(name).model.state_dict() for name in (network, f"local-dir:{network}")]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds neither best.safetensors nor last.safetensors"):
        load_trained(tmp_path / "empty")


def test_an_exported_file_takes_what_its_network_made(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    gallery, calibration, exported = (
        tmp_path / name for name in ("gallery.safetensors", "calibration.json", "net.pt2")
    )
    pairs = write_pairs(people, tmp_path / "pairs.txt")
    photo, other = people / "person03" / "person03_0001.png", people / "person05" / "person05_0002.png"
    said(capsys, "gallery", "build", people, "--network", network, "--out", gallery, "--device", "cpu")
    said(capsys, "calibrate", network, pairs, "--image-root", people, "--device", "cpu", "--out", calibration)
    facezoo.export(load_trained(network).model, exported)
    assert "person03" in said(capsys, "identify", gallery, photo, "--network", exported, "--threshold", "-1")
    verified = said(capsys, "verify", exported, photo, other, "--calibration", calibration, "--json")
    assert not any("of other weights" in warning for warning in json.loads(verified)["warnings"])


def test_faiss_says_what_it_missed(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("faiss")
    gallery, net = tmp_path / "gallery.safetensors", f"local-dir:{network}"
    said(capsys, "gallery", "build", people, "--network", net, "--out", gallery, "--device", "cpu")
    asked = ("identify", gallery, people / "person01", "--threshold", "0.5", "--top", "2", "--device", "cpu")
    assert "FAISS found 10 of the 10 nearest of 5 photos" in said(capsys, *asked, "--engine", "faiss")
    assert "FAISS" not in said(capsys, *asked)


def test_gallery_errors(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    gallery, net = tmp_path / "gallery.safetensors", f"local-dir:{network}"
    said(capsys, "gallery", "build", people, "--network", net, "--out", gallery, "--device", "cpu")
    photo = people / "person03" / "person03_0001.png"
    assert "FPIR 0.001 is not resolvable" in said(capsys, "identify", gallery, photo, "--fpir", "0.001", status=2)
    assert "--threshold is a cosine" in said(capsys, "identify", gallery, photo, "--threshold", "nan", status=2)
    assert "--prior is a probability" in said(capsys, "identify", gallery, photo, "--prior", "nan", status=2)
    assert "is not a valid gallery" in said(capsys, "identify", network / "model.safetensors", photo, status=2)
    torch.manual_seed(1)
    save_pretrained(facezoo.create_model("tiny_face", img_size=16, embedding_dim=8), tmp_path / "other", card=False)
    message = said(
        capsys, "identify", gallery, photo, "--network", f"local-dir:{tmp_path / 'other'}", "--fpir", "0.2", status=2
    )
    assert "is not the network that" in message


def write_pairs(people: Path, file: Path) -> Path:
    names = [f"person{person:02d}/person{person:02d}_{photo:04d}.png" for person in range(8) for photo in range(5)]
    genuine = [f"{names[5 * person]} {names[5 * person + other]} 1" for person in range(8) for other in range(1, 5)]
    impostor = [f"{names[a]} {names[b]} 0" for a in range(0, 40, 3) for b in range(a + 5, 40, 5) if a // 5 != b // 5]
    file.write_text("\n".join(genuine + impostor) + "\n")
    return file


def test_calibrate_and_verify(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    net = f"local-dir:{network}"
    pairs = write_pairs(people, tmp_path / "pairs.txt")
    same = [people / "person01" / "person01_0000.png", people / "person01" / "person01_0002.png"]
    assert "needs a calibration" in said(capsys, "verify", net, *same, "--far", "0.1", "--device", "cpu", status=2)
    assert "no decision" in said(capsys, "verify", net, *same, "--device", "cpu")
    assert "--prior goes with a calibration" in said(capsys, "verify", net, *same, "--prior", "0.1", status=2)
    text = said(capsys, "calibrate", net, pairs, "--image-root", people, "--device", "cpu", "--flip", "sum")
    assert "calibrated on pairs.txt: 32 genuine and" in text
    content = json.loads((network / "calibration.json").read_text())
    point = content["points"][0]
    text = said(capsys, "verify", net, *same, "--far", "0.1", "--device", "cpu")
    assert f"threshold {point['threshold']:.6f}, FAR 0.1 on pairs.txt)" in text
    assert "expected errors: 10 % of strangers accepted" in text
    answer = json.loads(said(capsys, "verify", net, *same, "--far", "0.1", "--device", "cpu", "--json"))
    assert (answer["flip"], answer["threshold"], answer["warnings"]) == ("sum", point["threshold"], [])
    assert answer["same"] is (answer["cosine"] >= answer["threshold"])
    assert answer["expected"]["frr"] == pytest.approx(1 - point["tar"])
    assert answer["expected"]["frr_interval"] == [1 - limit for limit in reversed(point["tar_interval"])]
    rare = json.loads(
        said(capsys, "verify", net, *same, "--far", "0.1", "--device", "cpu", "--json", "--prior", "0.001")
    )
    assert 0 < rare["probability"] < answer["probability"] < 1
    assert "FAR 1e-05 is not resolvable" in said(
        capsys, "verify", net, *same, "--far", "1e-5", "--device", "cpu", status=2
    )
    other_flip = json.loads(said(capsys, "verify", net, *same, "--device", "cpu", "--json", "--flip", "none"))
    assert "measured with --flip sum, this is --flip none" in other_flip["warnings"][0]
    assert other_flip["threshold"] == content["accuracy_threshold"]
    given = json.loads(said(capsys, "verify", net, *same, "--json", "--flip", "none", "--threshold", "0.5"))
    assert "made with --flip sum, this is --flip none: its probability may not hold" in given["warnings"][0]
    content["network"], content["eer"] = "0" * 16, 0.37
    (tmp_path / "c.json").write_text(json.dumps(content))
    warned = json.loads(
        said(capsys, "verify", net, *same, "--device", "cpu", "--json", "--calibration", tmp_path / "c.json")
    )["warnings"]
    assert "of other weights than these" in warned[0]
    assert "no decision by this network is worth much: its equal error rate on pairs.txt is 37 %" in warned[1]
    for threshold in ("nan", "inf", "1.5"):
        assert "is a cosine" in said(capsys, "verify", net, *same, "--threshold", threshold, status=2)
    unlabeled = tmp_path / "test.txt"
    unlabeled.write_text("\n".join(" ".join(line.split()[:2]) for line in pairs.read_text().splitlines()))
    assert "has no labels" in said(capsys, "calibrate", net, unlabeled, "--image-root", people, status=2)


def test_a_gallery_term_is_submitted(network: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / "verification"
    known = write_people(root / "known", 6, 2)
    for part, persons in (("unknown_dev", (4, 9, 1, 10)), ("unknown_test", (2, 9, 0))):
        photos = write_people(tmp_path / part, 11, 3)
        (root / part).mkdir()
        for index, person in enumerate(persons):
            shutil.copy(photos / f"person{person:02d}" / f"person{person:02d}_0002.png", root / part / f"{index}.png")
    (root / "verification_dev.csv").write_text("id,label\n0,person04\n1,n000000\n2,person01\n3,n000000\n")
    out = tmp_path / "s.csv"
    arguments = ("submit", f"local-dir:{network}", tmp_path, "--term", "F22", "--task", "gallery", "--out", out)
    assert "F22 gallery, 3 rows" in said(capsys, *arguments, "--device", "cpu")
    lines = out.read_text().splitlines()
    assert lines[0] == "id,label"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2"]
    assert lines[1].split(",")[1] in ("person02", "n000000")
    assert {line.split(",")[1] for line in lines[1:]} <= {path.name for path in known.iterdir()} | {"n000000"}
    in_order = out.read_text()
    rows = ["id,label", "3.png,n000000", "2.png,person01", "1.png,n000000", "0.png,person04"]
    (root / "verification_dev.csv").write_text("\n".join(rows) + "\n")  # the names count, not the order of the rows
    said(capsys, *arguments, "--device", "cpu")
    assert out.read_text() == in_order
    rows[1] += ",a field too many"
    (root / "verification_dev.csv").write_text("\n".join(rows) + "\n")
    said(capsys, *arguments, "--device", "cpu")
    assert out.read_text() == in_order
    (root / "verification_dev.csv").write_text("id,label\n0,person04\n")
    assert "names 1 people for 4 photos" in said(capsys, *arguments, status=2)
    (root / "verification_dev.csv").write_text("id,name\n0,person04\n")
    assert "has no column label or identity" in said(capsys, *arguments, status=2)
    (root / "verification_dev.csv").unlink()
    assert "no verification_dev.csv or" in said(capsys, *arguments, status=2)
    shutil.rmtree(root / "unknown_dev")
    said(capsys, *arguments, "--device", "cpu")
    assert [line.split(",")[1] for line in out.read_text().splitlines()[1::2]] == ["person02", "person00"]
    assert "has no known/ and unknown_test/" in said(capsys, *arguments[:2], tmp_path / "x", *arguments[3:], status=2)


@pytest.mark.ci
def test_a_suite_two_networks_and_degradations(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    net = f"local-dir:{network}"
    suite = tmp_path / "suite"
    (suite / "lfw").mkdir(parents=True)
    (suite / "lfw" / "images").symlink_to(people)
    genuine = [f"person{p:02d}\t{n}\t{n + 1}" for p in range(8) for n in (1, 3)]
    impostor = [f"person{p:02d}\t{n}\tperson{(p + 1) % 8:02d}\t{n}" for p in range(8) for n in (1, 4)]
    folds = [line for fold in range(4) for kind in (genuine, impostor) for line in kind[fold * 4 : fold * 4 + 4]]
    (suite / "lfw" / "pairs.txt").write_text("\n".join(["4\t4", *folds]) + "\n")
    text = said(capsys, "evaluate", net, "--suite", suite, "--device", "cpu")
    assert "LFW: " in text
    assert "(measured here)" in text
    assert "4-fold accuracy" in text
    assert text.rstrip().splitlines()[-2] == "LFW"
    found = json.loads(said(capsys, "evaluate", net, "--suite", suite, "--device", "cpu", "--json"))
    assert 0.5 <= found["lfw"]["accuracy"] <= 1
    assert "does not hold the data of a protocol" in said(capsys, "evaluate", net, "--suite", network, status=2)
    (suite / "ijbc" / "meta").mkdir(parents=True)  # half a protocol loses nothing of the others
    (suite / "ijbc" / "meta" / "ijbc_face_tid_mid.txt").write_text("1.jpg 1 1\n")
    assert main(["evaluate", net, "--suite", str(suite), "--device", "cpu", "--json"]) == 2
    both = capsys.readouterr()
    assert json.loads(both.out) == found
    assert "IJB-C was not measured: " in both.err
    shutil.rmtree(suite / "ijbc")

    torch.manual_seed(7)
    other = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
    save_pretrained(other, tmp_path / "other", card=False)
    pairs = ("--pairs", suite / "lfw" / "pairs.txt", "--image-root", people, "--device", "cpu")
    text = said(capsys, "evaluate", net, *pairs, "--against", f"local-dir:{tmp_path / 'other'}")
    assert "over people [" in text
    assert "McNemar p = " in text
    assert "go with --pairs" in said(capsys, "evaluate", net, "--robustness", status=2)
    several = ("--against", f"local-dir:{tmp_path / 'other'}", "--against", net)
    text = said(capsys, "evaluate", net, *pairs, *several)
    assert text.count("McNemar p = ") == 2
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plots" / "robust.png"
    tables = json.loads(
        said(capsys, "evaluate", net, *pairs, "--robustness", *several[:2], "--plot", picture, "--json")
    )
    assert list(tables) == [net, several[1]]
    assert all([entry["strength"] for entry in table["jpeg"]] == [30, 15, 5] for table in tables.values())
    assert picture.read_bytes().startswith(b"\x89PNG")

    exported = tmp_path / "net.pt2"
    facezoo.export(facezoo.create_model(net), exported)
    scores = [json.loads(said(capsys, "evaluate", one, *pairs, "--json"))["pairs.txt"] for one in (net, exported)]
    assert scores[0]["metrics"]["auc"] == pytest.approx(scores[1]["metrics"]["auc"], abs=0.02)


def test_a_calibration_travels_with_the_weights(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    net = f"local-dir:{network}"
    pairs = write_pairs(people, tmp_path / "pairs.txt")
    kept = tmp_path / "thresholds.json"
    said(capsys, "calibrate", net, pairs, "--image-root", people, "--device", "cpu", "--out", kept)
    model, folder = facezoo.create_model(net), tmp_path / "saved"
    save_pretrained(model, folder, card=False, calibration=kept)
    same = [people / "person01" / "person01_0000.png", people / "person01" / "person01_0002.png"]
    answer = json.loads(
        said(capsys, "verify", f"local-dir:{folder}", *same, "--far", "0.1", "--device", "cpu", "--json")
    )
    assert answer["warnings"] == []
    assert answer["threshold"] == json.loads(kept.read_text())["points"][0]["threshold"]
    save_pretrained(model, folder, card=False)  # the same weights: their thresholds hold
    assert (folder / "calibration.json").is_file()
    torch.manual_seed(3)
    save_pretrained(facezoo.create_model("tiny_face", img_size=16, embedding_dim=8), folder, card=False)
    assert not (folder / "calibration.json").exists()
    for wrong in (b"{}", b"[", b"\xff"):
        (tmp_path / "wrong.json").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"wrong.json is not a calibration"):
            save_pretrained(model, folder, card=False, calibration=tmp_path / "wrong.json")
    assert not (folder / "calibration.json").exists()


def test_a_gallery_of_a_packed_folder(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    said(capsys, "pack", people, "--out", tmp_path / "packed", "--size", "16")
    net, plain, packed = f"local-dir:{network}", tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    said(capsys, "gallery", "build", people, "--network", net, "--out", plain, "--device", "cpu")
    said(capsys, "gallery", "build", tmp_path / "packed", "--network", net, "--out", packed, "--device", "cpu")
    first, second = Gallery.load(plain), Gallery.load(packed)
    assert first.names == second.names
    assert torch.equal(first.counts, second.counts)
    torch.testing.assert_close(first.means, second.means, atol=2e-2, rtol=0)  # packed pixels are those of 16×16
    text = said(
        capsys, "gallery", "test", packed, tmp_path / "packed", "--split", "train", "--fpir", "0.5", "--device", "cpu"
    )
    assert "40 mated and 0 non-mated probes of 8 people" in text
    build = ("gallery", "build", "--network", net, "--out", packed, "--device", "cpu", "--split", "dev")
    assert "has no labeled images in the split dev" in said(capsys, *build, tmp_path / "packed", status=2)
    assert "--split is for packed folders" in said(capsys, *build, people, status=2)


def test_photos_are_aligned_on_the_way(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    """A crop pasted into a photo, turned by a right angle, is the same person again; without --align the photo is remarked upon."""
    name, device = f"local-dir:{network}", ["--device", "cpu"]
    template = template_points(112).numpy()
    (tmp_path / "photos" / "ann").mkdir(parents=True)
    rows, crops = [], []
    for number in range(2):
        crop = np.kron(
            np.random.default_rng(number).integers(0, 256, (14, 14, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
        )
        photo = np.zeros((200, 300, 3), dtype=np.uint8)
        photo[40:152, 100:212] = np.rot90(crop)
        # np.rot90: x, y of the crop come to y, 111 - x
        points = np.stack([template[:, 1] + 100, 111 - template[:, 0] + 40], axis=1)
        Image.fromarray(photo).save(tmp_path / "photos" / "ann" / f"{number}.png")
        Image.fromarray(crop).save(tmp_path / f"crop{number}.png")
        crops.append(tmp_path / f"crop{number}.png")
        rows.append(",".join([f"ann/{number}.png", *(f"{value:.4f}" for value in points.ravel())]))
    marks = tmp_path / "photos" / "points.csv"
    marks.write_text("\n".join(rows) + "\n")
    photos = [tmp_path / "photos" / "ann" / f"{number}.png" for number in range(2)]
    align = ["--align", "--landmarks", marks]
    said(capsys, "embed", name, *crops, *device, "--out", tmp_path / "a.npz")
    said(capsys, "embed", name, *photos, *device, *align, "--out", tmp_path / "b.npz")
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert (a["embeddings"] * b["embeddings"]).sum(axis=1).min() > 0.99
        assert b["names"].tolist() == [str(photo) for photo in photos]
    cosine = json.loads(said(capsys, "verify", name, *photos, *align, "--device", "cpu", "--json"))["cosine"]
    gallery = tmp_path / "g.safetensors"
    said(capsys, "gallery", "build", tmp_path / "photos", "--network", name, *device, *align, "--out", gallery)
    found = json.loads(
        said(capsys, "identify", gallery, photos[0], *align, "--threshold", "0.5", "--device", "cpu", "--json")
    )
    assert found[0]["name"] == "ann"
    assert cosine < 0.99
    assert main([str(part) for part in ("embed", name, photos[0], *device, "--out", tmp_path / "c.npz")]) == 0
    assert "1 of 1 images do not look like aligned crops" in capsys.readouterr().err
    assert main([str(part) for part in ("embed", name, *crops, *device, "--out", tmp_path / "c.npz")]) == 0
    assert "aligned crops" not in capsys.readouterr().err
    assert "goes with --align" in said(capsys, "embed", name, *photos, *device, "--landmarks", marks, status=2)
    assert "no face on" in said(capsys, "embed", name, *crops, *device, *align, status=2)
    assert "yunet needs its ONNX file" in said(capsys, "embed", name, *photos, *device, "--align", status=2)


# -- photos that cannot be used ---------------------------


@pytest.fixture
def spoiled(people: Path, tmp_path: Path) -> Path:
    """A copy of the people: a photo of person00 is cut, and all photos of person01 are."""
    folder = tmp_path / "spoiled"
    shutil.copytree(people, folder)
    for path in (folder / "person00" / "person00_0002.png", *(folder / "person01").iterdir()):
        path.write_bytes(path.read_bytes()[:60])
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_photo_does_not_cost_the_others(
    network: Path, people: Path, spoiled: Path, tmp_path: Path, capsys, workers: int
) -> None:
    out, bad = tmp_path / "e.npz", spoiled / "person00" / "person00_0002.png"
    given = ("--device", "cpu", "--num-workers", workers)
    found = json.loads(said(capsys, "embed", network, spoiled / "person00", "--out", out, "--json", *given))
    assert found["images"] == 4
    assert list(found["left_out"]) == [str(bad)]
    assert "person00_0002.png" in found["left_out"][str(bad)]
    whole = tmp_path / "whole.npz"
    said(capsys, "embed", network, people / "person00", "--out", whole, *given)
    with np.load(out) as some, np.load(whole) as all_of_them:
        assert [Path(name).name for name in some["names"]] == [f"person00_000{number}.png" for number in (0, 1, 3, 4)]
        np.testing.assert_array_equal(some["embeddings"], all_of_them["embeddings"][[0, 1, 3, 4]])


def test_galleries_name_the_photos_and_people_that_they_lack(
    network: Path, spoiled: Path, tmp_path: Path, capsys
) -> None:
    gallery, bad = tmp_path / "g.safetensors", spoiled / "person00" / "person00_0002.png"
    assert (
        main(["gallery", "build", str(spoiled), "--network", str(network), "--out", str(gallery), "--device", "cpu"])
        == 0
    )
    captured = capsys.readouterr()
    assert "7 people, 34 photos" in captured.out
    assert "warning: photos left out: 6 of 40" in captured.err
    assert "warning: no photo is left of 1 people: person01" in captured.err
    assert str(bad)[-150:] in captured.err
    good = spoiled / "person02" / "person02_0000.png"
    asked = ("identify", gallery, bad, good, "--threshold", "0", "--device", "cpu")
    answers = json.loads(said(capsys, *asked, "--json"))
    assert answers[0]["candidates"][0]["name"] == "person02"
    assert answers[1]["photo"] == str(bad)
    assert "person00_0002.png" in answers[1]["error"]
    assert said(capsys, *asked).count("\n") == 1
    table = tmp_path / "names.csv"
    said(capsys, *asked, "--out", table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["photo"], row["error"] != "") for row in rows] == [(str(good), False)] * 3 + [(str(bad), True)]
    assert rows[-1]["error"] == answers[1]["error"]
    assert rows[-1]["identity"] == rows[-1]["cosine"] == ""


def test_photos_of_which_none_can_be_read_are_an_error(network: Path, spoiled: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "e.npz"
    text = said(capsys, "embed", network, spoiled / "person01", "--out", out, "--device", "cpu", status=2)
    assert "none of the 5 images can be read" in text
    assert not out.exists()


def test_a_photo_without_a_face_does_not_cost_the_others(network: Path, people: Path, tmp_path: Path, capsys) -> None:
    points = tmp_path / "points.csv"
    rows = "\n".join(f"person00_000{number}.png,4,4,12,4,8,8,5,12,11,12" for number in (0, 1, 3))
    points.write_text("name,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n" + rows + "\n")
    align = ("--align", "--landmarks", points, "--device", "cpu")
    found = json.loads(
        said(capsys, "embed", network, people / "person00", "--out", tmp_path / "e.npz", "--json", *align)
    )
    assert found["images"] == 3
    assert [Path(name).stem for name in found["left_out"]] == ["person00_0002", "person00_0004"]
    assert all("no face" in reason for reason in found["left_out"].values())
    one = people / "person00" / "person00_0002.png"
    assert "none of the 1 photos can be used: no face" in said(
        capsys, "embed", network, one, "--out", tmp_path / "f.npz", *align, status=2
    )
    text = said(capsys, "verify", network, one, people / "person00" / "person00_0000.png", *align, status=2)
    assert "no face" in text  # of two photos both are needed
