"""Recipes hold to their source, keep the course's rules, and train."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import facezoo
from facezoo.cli import build_parser, main, train_config
from facezoo.data import ImageFolder
from facezoo.registry import DuplicateNameError
from facezoo.training import Trainer
from facezoo.training.recipes import RECIPES, STATUSES, course_warnings, get_recipe, list_recipes, register_recipe

# What the sources say; see the `source` of each recipe.
SOURCES: dict[str, dict[str, object]] = {
    "arcface-vgg2": {"batch_size": 512, "margin": "arcface", "margin_options": {"scale": 64.0, "margin": 0.3},
                     "schedule_options": {"milestones": [40000, 60000, 80000], "unit": "updates"}},
    "arcface-ms1m": {"batch_size": 1024, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "epochs": 20, "schedule": "linear",
                     "warmup_epochs": 0.0, "margin": "arcface", "margin_options": {"scale": 64.0, "margin": 0.5},
                     "clip_grad_norm": 5.0, "drop_rate": 0.0, "augment": "light", "optimizer": "sgd"},
    "cosface-webface": {"batch_size": 1024, "lr": 0.1, "weight_decay": 5e-4, "epochs": 20, "schedule": "linear",
                        "warmup_epochs": 0.0, "margin": "cosface", "margin_options": {"scale": 64.0, "margin": 0.4}},
    "adaface": {"batch_size": 512, "lr": 0.1, "weight_decay": 1e-4, "epochs": 26, "schedule": "multi_step",
                "schedule_options": {"milestones": [12, 20, 24]}, "margin": "adaface", "augment": "adaface",
                "margin_options": {"scale": 64.0, "margin": 0.4, "h": 0.333}},
    "partialfc": {"margin": "arcface", "margin_options": {"scale": 64.0, "margin": 0.3}, "weight_decay": 5e-4, "lr": 0.1,
                  "sample_rate": 0.1, "epochs": 20, "schedule": "linear", "batch_size": 1024, "optimizer_in_backward": True},
    "vit-face": {"batch_size": 2048, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.1, "margin": "cosface",
                 "sample_rate": 0.3, "epochs": 40, "schedule": "linear",
                 "warmup_epochs": 4.0, "drop_path_rate": 0.05, "margin_options": {"scale": 64.0, "margin": 0.4}},
    "convnext": {"optimizer": "adamw", "lr": 4e-3, "batch_size": 4096, "weight_decay": 0.05, "epochs": 300, "warmup_epochs": 20.0,
                 "schedule": "cosine", "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "ema_decay": 0.9999,
                 "drop_path_rate": 0.1, "margin": "linear", "augment": "course"},
    "hw2p2": {"model": "resnet50", "margin": "linear", "label_smoothing": 0.15, "batch_size": 1024, "schedule": "cosine"},
    "hw2p2-joint": {"margin": "linear", "joint": {"arcface": 1.5}, "augment_options": {"rotation": 15}, "batch_size": 512,
                    "schedule": "cosine", "joint_options": {"arcface": {"scale": 32.0, "margin": 0.3}}},
    "tiny-cpu": {"model": "resnet18_x0_5", "img_size": 80, "margin": "linear", "optimizer": "muon", "epochs": 8,
                 "augment_options": {}, "augment_late_options": {"crop_padding": 4}, "augment_late_from": 0.5,
                 "wccn": 0.3, "wccn_between": 3.0, "wccn_offset": 0.7},
    "tiny-cpu-long": {"model": "resnet18_x0_5", "img_size": 64, "margin": "linear", "optimizer": "muon", "epochs": 20,
                      "wccn": 0.3, "wccn_between": 3.0, "wccn_offset": 0.7},
    "subcenter-clean": {"epochs": 28, "margin": "subcenter_arcface", "schedule_options": {"milestones": [16, 24]},
                        "batch_size": 512, "margin_options": {"scale": 64.0, "margin": 0.5, "sub_centers": 3,
                                                              "warmup_scale": 16.0, "warmup_steps": 2000}},
    "hw2p2-early": {"margin": "linear", "epochs": 10, "batch_size": 256, "schedule": "cosine"},
    "hw2p2-finetune": {"init_head": "class_means", "batch_size": 512, "schedule": "cosine", "margin": "arcface",
                       "margin_options": {"scale": 32.0, "margin": 0.3, "warmup_scale": 16.0, "warmup_steps": 2000}},
    "edgeface": {"model": "edgeface_xs", "batch_size": 1024, "schedule": "linear", "margin": "cosface", "epochs": 40, "lr": 1e-3,
                 "margin_options": {"scale": 64.0, "margin": 0.4}, "warmup_epochs": 4.0, "weight_decay": 0.1, "optimizer": "adamw"},
    "distill": {"model": "mobilefacenet", "epochs": 28, "batch_size": 512, "lr": 0.1, "weight_decay": 5e-4,
                "optimizer": "sgd", "schedule": "multi_step", "schedule_options": {"milestones": [16, 24]}, "margin": "arcface"},
}  # fmt: skip


# Images and identities of the data that the recipes are made for.
DATA = {
    "HW2P2": (431550, 8631), "VGGFace2": (3141890, 8631), "MS1MV2": (5822653, 85742), "MS1MV3": (5179510, 93431),
    "WebFace4M": (4235242, 205990), "WebFace42M": (42474558, 2059906), "CASIA-WebFace": (490623, 10572),
}  # fmt: skip


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_hold_to_their_source(name):
    recipe, config = get_recipe(name), get_recipe(name).config()
    data = recipe.made_for.split(",")[0].split(" or ")[0]
    if data in DATA:
        assert (recipe.images, recipe.identities) == DATA[data]
    assert {key: config.option(key) for key in SOURCES[name]} == SOURCES[name]
    held = {key.removesuffix("_options") for key in SOURCES[name]}
    assert name.startswith("tiny-cpu") or {"schedule", "batch_size", "margin"} <= held  # that one is tuned here
    assert recipe.status in STATUSES
    assert recipe.status != "published" or recipe.figures
    assert recipe.images >= recipe.identities > 0
    if recipe.course:
        assert course_warnings(config) == []
        own = config.model
        size = facezoo.profile_model(own.name, embedding_dim=own.embedding_dim).params
        centers = own.embedding_dim * recipe.identities * (1 + len(own.joint)) + recipe.identities
        assert size + centers <= 30e6


def test_the_course_is_warned_of_what_it_forbids():
    config = get_recipe("hw2p2").config()
    assert (
        "no label smoothing or mixup together" in course_warnings(config.replace(margin="arcface", mixup_alpha=0.2))[0]
    )
    assert "keep max_params at 30e6" in course_warnings(config.replace(max_params=None))[0]
    assert "no attention" in course_warnings(config.replace(model="vit_t"))[0]
    for own in ({"init_checkpoint": "hf-hub:a/b"}, {"init_pretrained": "imagenet"}, {"teacher": "hf-hub:a/b"}):
        more = {"distill": {"cosine": 1.0}} if "teacher" in own else {}
        assert "no pretrained weights" in course_warnings(config.replace(**own, **more))[0]


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_train_for_twenty_updates(config, tmp_path, name):
    """With their losses, optimizer, schedule and averaging, on a tiny network."""
    recipe = get_recipe(name).config()
    options = {
        "model": "tiny_face",
        "img_size": 16,
        "stem": "face",
        "embedding_dim": 8,
        "batch_size": 8,
        "accumulation": 1,
        "epochs": 4,
    }
    options |= {
        "amp": "none",
        "num_workers": 0,
        "progress": False,
        "device": "cpu",
        "max_params": None,
        "drop_path_rate": 0.0,
    }
    options |= {
        "sample_rate": max(recipe.optimization.sample_rate, 0.5),
        "warmup_epochs": 1.0,
        "augment": "none",
        "lr": 1e-3,
    }
    options |= {
        "augment_options": {},
        "augment_late_options": {},
        "head_parallel": False,
        "channels_last": False,
        "log_interval": 5,
    }
    own = config()
    options |= {"data": own.data.path, "out": own.output.folder}
    if recipe.model.distill:
        names = ImageFolder(Path(own.data.path) / "cls_data" / "train").names
        np.savez(
            tmp_path / "teacher.npz", embeddings=np.random.default_rng(0).normal(size=(len(names), 6)), names=names
        )
        options |= {"teacher": str(tmp_path / "teacher.npz")}
    result = Trainer(recipe.replace(**options)).fit()
    assert result.updates == 20
    assert all(math.isfinite(row["train_loss"]) for row in result.history)


def test_options_go_over_a_recipe_and_the_run_says_which_it_was(faces, tmp_path, capsys):
    arguments = [
        "train",
        str(faces),
        "--recipe",
        "tiny-cpu",
        "--model",
        "tiny_face",
        "--img-size",
        "16",
        "--stem",
        "face",
        "--embedding-dim",
        "8",
    ]
    arguments += ["--batch-size", "8", "--epochs", "1", "--num-workers", "0", "--device", "cpu", "--no-progress"]
    arguments += ["--out", str(tmp_path / "run")]
    assert main([*arguments, "--explain"]) == 0
    text = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert 'model.name = "tiny_face"  (default "resnet18")' in text
    assert "status: measured here" in text
    assert "chosen by pairs of people who are left out" in text
    torch.manual_seed(0)
    assert main(arguments) == 0
    note = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (note["name"], note["status"], note["optimization"]["epochs"]) == ("tiny-cpu", "measured", 8)
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (settings["optimization"]["epochs"], settings["optimization"]["wccn"]) == (1, 0.3)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--recipe", "tiny-cpu"]) == 2
    assert "leave out --recipe" in capsys.readouterr().err
    assert main(["train", "faces", "--explain"]) == 2
    assert "name one with --recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "options", "name", "expected"),
    [
        ("hw2p2-finetune", ["--margin-options", "margin=0.4"], "margin_options",
         {"scale": 32.0, "margin": 0.4, "warmup_scale": 16.0, "warmup_steps": 2000}),
        ("hw2p2-finetune", ["--margin", "cosface", "--margin-options", "margin=0.4"], "margin_options", {"margin": 0.4}),
        ("hw2p2-finetune", ["--margin", "arcface", "--margin-options", "scale=16"], "margin_options",
         {"scale": 16, "margin": 0.3, "warmup_scale": 16.0, "warmup_steps": 2000}),
        ("hw2p2-joint", ["--augment-options", "erasing=0"], "augment_options", {"rotation": 15, "erasing": 0}),
        ("hw2p2-joint", ["--augment", "light", "--augment-options", "erasing=0"], "augment_options", {"erasing": 0}),
        ("hw2p2-joint", ["--augment-options", "{}"], "augment_options", {}),
        ("tiny-cpu", ["--augment-late-options", "erasing=0.2"], "augment_late_options", {"crop_padding": 4, "erasing": 0.2}),
        ("tiny-cpu", ["--augment", "none", "--augment-late-options", "erasing=0.2"], "augment_late_options", {"erasing": 0.2}),
        ("hw2p2-finetune", ["--margin-options", '{"scale": 64}'], "margin_options", {"scale": 64}),
        ("tiny-cpu", ["--optimizer-options", "momentum=0.9"], "optimizer_options", {"vector_lr_scale": 0.15, "momentum": 0.9}),
    ],
)  # fmt: skip
def test_one_option_of_many_leaves_the_others_of_the_recipe(recipe, options, name, expected):
    given = build_parser().parse_args(["train", "faces", "--recipe", recipe, *options])
    assert train_config(given).option(name) == expected


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_recipes()
    assert all(line.endswith(tuple(f"({text})" for text in STATUSES.values())) for line in lines)
    assert main(["recipes", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list_recipes()
    assert main(["recipes", "hw2p2"]) == 0
    assert "on a T4-class GPU (fp16) about" in capsys.readouterr().out
    assert main(["recipes", "hw2p3"]) == 2
    assert "did you mean 'hw2p2'" in capsys.readouterr().err


def test_a_recipe_of_ones_own(tmp_path):
    head = 'about = "mine"\nstatus = "never run"\nsource = "me"\nmade_for = "anything"\n'
    path = tmp_path / "mine.toml"

    def written(text: str) -> Path:
        path.write_text(text)
        return path

    written(head + "[optimization]\nlr = 0.7\n")
    assert get_recipe(str(path)).config().optimization.lr == 0.7
    register_recipe("mine", path)
    try:
        assert get_recipe("mine").about == "mine"
        with pytest.raises(DuplicateNameError):
            register_recipe("mine", tmp_path / "other.toml")
    finally:
        RECIPES.unregister("mine")
    for text, message in (
        (head + "[optimization]\nrl = 0.7\n", "unknown setting of the section optimization 'rl'"),
        (head + "[optimisation]\nlr = 0.7\n", "unknown field of a recipe 'optimisation'; did you mean 'optimization'"),
        (head + "[optimization]\nlr = -1\n", "lr must be above 0; got -1"),
        (head.replace("never run", "great"), "status is one of measured, published, never run; got 'great'"),
        (head.replace("source", "sauce"), "unknown field of a recipe 'sauce'"),
        ("about = 1\n", "a recipe has a text 'about'"),
        ("about = ", "is not TOML"),
    ):
        with pytest.raises(ValueError, match=r"mine\.toml") as caught:
            get_recipe(str(written(text)))
        assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"none\.toml: No such file"):
        get_recipe(str(tmp_path / "none.toml"))
