"""`import facezoo` is cheap, and every public name is where the documentation says."""

from __future__ import annotations

import importlib.resources
import pkgutil
import re
import subprocess
import sys

import pytest

import facezoo

HEAVY = ("torchvision", "huggingface_hub", "matplotlib", "tqdm", "PIL", "tensorboard", "timm", "sklearn", "onnx")

LAZY = tuple(
    name for name in HEAVY if name != "tqdm"
)  # torch itself loads tqdm for its utilities, where it is installed

TOP_LEVEL = [
    *(
        "create_model",
        "list_models",
        "is_model",
        "register_model",
        "profile_model",
        "load_checkpoint",
        "fuse",
        "export",
    ),
    "register_weights",
    *(
        "create_margin",
        "list_margins",
        "register_margin",
        "create_loss",
        "list_losses",
        "register_loss",
        "register_block",
    ),
]
IN_PACKAGES = {
    "evaluation": ["verification_metrics", "evaluate_pairs", "kfold_accuracy"],
    "deploy": ["fuse", "export", "ExportedNetwork", "compare_recognition"],
    "training": ["Trainer", "TrainConfig"],
    "models": ["FaceNetwork", "Preprocessing", "ModelSpec"],
    "margins": ["create_margin", "MarginHead"],
    "losses": ["create_loss", "JointLoss"],
    "weights": [
        *(
            "CheckpointError",
            "LoadReport",
            "load_checkpoint",
            "read_file",
            "save_file_atomic",
            "HubError",
            "WeightsRecord",
        ),
        *("ReportedFigure", "register_weights", "list_weights", "save_pretrained", "push_to_hub", "Preprocessing"),
    ],
    "data": ["ImageFolder", "LabeledImages", "read_pairs", "read_lfw_pairs"],
    "synthetic": ["SyntheticFaces", "SyntheticFacesError", "write_synthetic_faces"],
    "courses": ["write_submission", "check_submission", "submission_terms"],
}


def in_fresh_interpreter(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, timeout=900
    ).stdout


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, facezoo; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    assert not set(in_fresh_interpreter(code).split()) & {"torch", "numpy", *HEAVY}


def test_import_loads_no_subpackage() -> None:
    code = "import sys, facezoo; print(*sorted(name for name in sys.modules if name.startswith('facezoo')))"
    assert in_fresh_interpreter(code).split() == ["facezoo", "facezoo._version", "facezoo.moved"]


def test_building_a_network_loads_nothing_heavy() -> None:
    code = (
        "import sys, facezoo; facezoo.create_model('mobilefacenet'); facezoo.create_margin('arcface', embedding_dim=8, "
        f"num_classes=9); print(*(name for name in {LAZY!r} if name in sys.modules))"
    )
    assert in_fresh_interpreter(code).split() == []


def test_a_budget_loads_no_compiler() -> None:
    """No parameter is drawn where only their number counts; torch draws without storage by code that imports its compiler."""
    code = "import sys, facezoo; print(*facezoo.list_models(max_params=1e6), 'torch._dynamo' in sys.modules)"
    *small, compiler = in_fresh_interpreter(code).split()
    assert {"ghostfacenet_050"} <= set(small) < set(facezoo.list_models())
    assert compiler == "False"


MOVED = {
    "data": {"SyntheticFaces": "synthetic", "SyntheticFacesError": "synthetic", "write_synthetic_faces": "synthetic"},
    "evaluation": dict.fromkeys(("SUBMISSION_FORMATS", "write_submission", "check_submission"), "courses"),
}


@pytest.mark.parametrize(("old", "name", "new"), [(o, n, new) for o, own in MOVED.items() for n, new in own.items()])
def test_what_moved_is_found_at_its_old_place(old: str, name: str, new: str) -> None:
    assert getattr(getattr(facezoo, old), name) is getattr(getattr(facezoo, new), name)


def test_moved_modules_and_unknown_names() -> None:
    assert facezoo.data.synthetic is facezoo.synthetic
    assert facezoo.evaluation.submission is facezoo.courses.submission
    with pytest.raises(AttributeError, match=r"'facezoo\.data' has no attribute 'sintetic'"):
        _ = facezoo.data.sintetic


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_public_names(name: str) -> None:
    assert name in facezoo.__all__
    assert callable(getattr(facezoo, name))
    assert getattr(facezoo, name).__doc__


@pytest.mark.parametrize(("package", "name"), [(p, name) for p, names in IN_PACKAGES.items() for name in names])
def test_public_names_in_packages(package: str, name: str) -> None:
    module = getattr(facezoo, package)
    assert name in module.__all__
    assert hasattr(module, name)


def test_all_is_sorted_complete_and_true() -> None:
    assert facezoo.__all__ == sorted(facezoo.__all__)
    for name in facezoo.__all__:
        assert getattr(facezoo, name) is not None
    assert dir(facezoo) == facezoo.__all__


def test_every_module_imports_and_says_what_it_is() -> None:
    for info in pkgutil.walk_packages(facezoo.__path__, "facezoo."):
        if info.name == "facezoo.__main__":
            continue  # it runs the command line
        module = importlib.import_module(info.name)
        assert module.__doc__, f"{info.name} has no docstring"
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{info.name}.__all__ names {name!r}, which is not there"


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'create_modle'"):
        _ = facezoo.create_modle


def test_version_and_type_marker() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", facezoo.__version__)
    assert (importlib.resources.files("facezoo") / "py.typed").is_file()
