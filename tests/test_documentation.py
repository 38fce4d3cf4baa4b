"""What README and guides show is true: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import facezoo
from facezoo.blocks import BLOCKS
from facezoo.cli import build_parser
from facezoo.cli.effects import refuse_options_without_effect
from facezoo.cli.evaluate import add_evaluate
from facezoo.data.sources import SOURCES
from facezoo.evaluation.protocols import PROTOCOLS
from facezoo.losses import LOSSES
from facezoo.margins import NEGATIVES
from facezoo.margins.margin import MARGINS
from facezoo.models import MODELS
from facezoo.training import TrainConfig, Trainer
from facezoo.training.loggers import LOGGERS
from facezoo.training.optimizers import OPTIMIZERS
from facezoo.training.schedules import SCHEDULES
from facezoo.weights import WEIGHTS, list_weights
from tiny_faces import write_faces

list_weights()  # read on the first call: what a page leaves behind is compared with this
REGISTRIES = (BLOCKS, MARGINS, NEGATIVES, MODELS, WEIGHTS, LOSSES, SOURCES, PROTOCOLS, LOGGERS, OPTIMIZERS, SCHEDULES)

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
GENERATED = {
    "models.md",
    "margins.md",
    "weights.md",
    "settings.md",
    "cli.md",
    "benchmarks.md",
}  # when the site is built, like api/*.md


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages may take for granted: faces, pairs, photos, weight files, a run."""
    folder = tmp_path_factory.mktemp("offered")
    write_faces(folder / "faces", train=4, dev=2, pairs=12, size=32)
    shutil.copy(folder / "faces" / "val_pairs.txt", folder / "val_pairs.txt")
    for image in (folder / "faces" / "ver_data").iterdir():
        shutil.copy(image, folder)
    for name, image in zip("abc", sorted((folder / "faces" / "ver_data").iterdir()), strict=False):
        shutil.copy(image, folder / f"{name}.jpg")
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18.pth")
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "vit_tiny_patch16_224.pth")
    options = {"model": "tiny_face", "img_size": 32, "embedding_dim": 16, "num_workers": 0, "progress": False}
    options |= {"data": str(folder / "faces"), "out": str(folder / "runs" / "mine"), "epochs": 1, "batch_size": 16}
    Trainer(TrainConfig.from_options(**options)).fit()
    return folder


EXPORTS = "docs/deployment.md"  # takes as long as all other pages together


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=pytest.mark.ci if name == EXPORTS else ())
        for page, name in zip(PAGES, NAMES, strict=True)
    ],
)
def test_python_runs(page: Path, offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied in order into an empty session, beside the files above, every block of a page runs."""
    runnable = blocks(page, "python")
    if not runnable:
        return
    shutil.copytree(offered, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    before = [set(registry) for registry in REGISTRIES]
    try:
        namespace: dict[str, object] = {"__name__": "__main__"}  # as an interpreter begins
        for block in runnable:
            exec(compile(block, str(page), "exec"), namespace)
    finally:
        for registry, names in zip(REGISTRIES, before, strict=True):
            for name in set(registry) - names:
                registry.unregister(name)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "text"):
            for line in block.splitlines():
                command = re.sub(r"\s+#.*", "", line).strip()
                command = re.sub(r"^torchrun .*-m facezoo", "facezoo", command)
                if command.startswith("facezoo ") and "COMMAND" not in command:
                    found.append((page.name, command))
    return found


@pytest.fixture
def own_margin() -> Iterator[None]:
    """The margin that docs/extending.md registers, and trains by a command."""
    facezoo.register_margin("my_margin", title="My margin", formula="s·(cos θ_y - m)", paper="unpublished", scale=64.0)(
        lambda batch, *, margin=0.3: batch.target - margin
    )
    yield
    MARGINS.unregister("my_margin")


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_parse(page: str, command: str, own_margin: None) -> None:
    try:
        options = build_parser().parse_args(shlex.split(command)[1:])
    except SystemExit as stop:
        pytest.fail(f"{page}: `{command}` is no command of facezoo (exit {stop.code})")
    assert options.command is not None
    if options.command == "evaluate":
        parser = argparse.ArgumentParser()
        add_evaluate(parser)
        refuse_options_without_effect(options, parser)
    if options.command == "train":
        from facezoo.cli import train_config

        train_config(options)  # the values too: margins' options, joint losses, unknown settings


def test_there_are_commands_to_parse() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_between_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if target.removeprefix("../") in GENERATED or target.removeprefix("../").startswith("api/"):
            continue  # made when the site is built, which fails on a link that leads nowhere
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_of_the_readme_are_whole_and_lead_somewhere() -> None:
    """A package index shows the README without the files beside it."""
    own = re.compile(r"https://(?:github|raw\.githubusercontent)\.com/facezoo/facezoo/(?:blob/|tree/)?main/([^#]+)")
    found = 0
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert target.startswith("https://")
        if match := own.match(target):
            found += 1
            assert (ROOT / match[1]).exists(), target
    assert found > 15


def test_the_version_has_its_place_in_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text or f"## [{facezoo.__version__}]" in text


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_network_and_margin_that_is_named_exists(page: Path) -> None:
    known_models, known_margins = facezoo.list_models(), facezoo.list_margins()
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r'create_model\("([^"]+)"|--model ([a-z0-9_]+)', text):
        if facezoo.weights.is_pretrained_name(name[0]):
            continue
        assert (name[0] or name[1]) in [*known_models, "my_net"]
    for name in re.findall(r'create_margin\("([^"]+)"|--margin ([a-z0-9_]+)', text):
        assert (name[0] or name[1]) in [*known_margins, "my_margin"]
