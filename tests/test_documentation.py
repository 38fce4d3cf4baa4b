"""What README and guides show is true: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import facezoo
from facezoo.cli import build_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

# Blocks that need files, and lines whose meaning is a path of the reader's.
NEEDS_FILES = ("path/to", "hf-hub:", ".pth", "read_pairs(", "ImageFolder(")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    runnable = [block for block in blocks(page, "python") if not any(text in block for text in NEEDS_FILES)]
    if not runnable:
        return
    torch.manual_seed(0)
    from facezoo.blocks import BLOCKS
    from facezoo.margins.margin import MARGINS
    from facezoo.models import MODELS
    from facezoo.training.loggers import LOGGERS
    from facezoo.training.optimizers import OPTIMIZERS
    from facezoo.training.schedules import SCHEDULES
    from facezoo.weights import WEIGHTS

    registries = (BLOCKS, MARGINS, MODELS, WEIGHTS, LOGGERS, OPTIMIZERS, SCHEDULES)
    before = [set(registry) for registry in registries]
    images, labels = torch.randn(4, 3, 112, 112), torch.tensor([0, 0, 1, 1])
    namespace = {
        "facezoo": facezoo,
        "torch": torch,
        "images": images,
        "labels": labels,
        "embeddings": torch.randn(4, 512),
        "scores": [0.1, 0.9, 0.2, 0.8],
        "model": facezoo.create_model("mobilefacenet"),
        "head": facezoo.create_margin("arcface", embedding_dim=512, num_classes=8631),
    }
    try:
        for block in runnable:
            exec(compile(block, str(page), "exec"), namespace)
    finally:
        for registry, names in zip(registries, before, strict=True):
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


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_parse(page: str, command: str) -> None:
    try:
        options = build_parser().parse_args(shlex.split(command)[1:])
    except SystemExit as stop:
        pytest.fail(f"{page}: `{command}` is no command of facezoo (exit {stop.code})")
    assert options.command is not None
    if options.command == "train":
        from facezoo.cli import train_config

        train_config(options)  # the values too: margins' options, joint losses, unknown settings


def test_there_are_commands_to_parse() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_between_files(page: Path) -> None:
    generated = {"models.md", "margins.md", "cli.md"}
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if target in generated or target.startswith("api/"):
            continue  # made when the site is built, which fails on a link that leads nowhere
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readmes_table_of_contents_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\]\(#([a-z0-9-]+)\)", text)
    headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, flags=re.MULTILINE)]
    assert listed == headings


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
        assert (name[0] or name[1]) in known_margins
