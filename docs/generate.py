"""Pages that are made from the package itself when the site is built, so that they cannot disagree with it.

A hook of MkDocs (see ``hooks`` in mkdocs.yml): tables of models and margins from their specs, the command line from its
parser, and one API page per package from its ``__all__``.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGES = (
    "models",
    "margins",
    "losses",
    "data",
    "evaluation",
    "deploy",
    "training",
    "courses",
    "synthetic",
    "weights",
    "blocks",
    "layers",
    "ops",
)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the documentation's files."""
    pages = {
        "models.md": models_page(),
        "margins.md": margins_page(),
        "cli.md": cli_page(),
        "api/facezoo.md": top_level_page(),
    }
    pages |= {f"api/{package}.md": package_page(package) for package in PACKAGES}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def models_page() -> str:
    """Every registered network with its exact size, in the face form and in the published one."""
    import facezoo

    lines = [
        "# Models",
        "",
        "Parameters and multiply-accumulates (MACs) are counted on the meta device when this page is built. MACs are those of "
        'convolutions and linear layers for one image. *Face*: 112×112 pixels, `stem="face"`, 512-dimensional embedding, no '
        "classifier – what `facezoo.create_model(name)` builds. *ImageNet*: the published network, 224×224 pixels, "
        '`stem="imagenet", embedding_dim=None, num_classes=1000`.',
        "",
        "| Model | Family | Params, face | MACs, face | Params, ImageNet | MACs, ImageNet | Paper |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for name in facezoo.list_models():
        spec = facezoo.models.get_model_spec(name)
        cells = [f"`{name}`", spec.family]
        for stem, options in (
            ("face", {}),
            ("imagenet", {"img_size": 224, "embedding_dim": None, "num_classes": 1000}),
        ):
            if stem in spec.stems:
                profile = facezoo.profile_model(name, stem=stem, memory=False, **options)
                cells += [f"{profile.params:,}", f"{profile.macs:,}"]
            else:
                cells += ["–", "–"]
        lines.append("| " + " | ".join([*cells, paper_link(spec.paper)]) + " |")
    return "\n".join(lines) + "\n"


def margins_page() -> str:
    """Every registered margin from its spec."""
    from facezoo.margins import list_margins, margin_class

    lines = [
        "# Margins",
        "",
        "For `facezoo.create_margin(name, embedding_dim=…, num_classes=…, **options)`. θ_y is the angle between an embedding "
        "and the center of its own class, θ_j that to another one, in radians; s is `scale`, m is `margin`.",
        "",
        "Every head takes `label_smoothing`, `engine`, `block_size`, `warmup_steps`, `warmup_scale` and `interclass_filter` too.",
        "",
        "| Name | Margin | Target logit | Logits of the other classes | Options and defaults | Paper |",
        "|---|---|---|---|---|---|",
    ]
    for name in list_margins():
        spec = margin_class(name)
        options = ", ".join(f"`{key}={value!r}`" for key, value in spec.defaults.items()) or "none"
        formula, others = (text.replace("|", "\\|") for text in (spec.formula, spec.other_formula))
        lines.append(f"| `{name}` | {spec.title} | {formula} | {others} | {options} | {paper_link(spec.paper)} |")
    lines += [
        "",
        "## Losses on embeddings",
        "",
        "For `facezoo.create_loss(name, **options)`.",
        "",
        "| Name | What it is |",
        "|---|---|",
    ]
    import facezoo
    from facezoo.losses import LOSSES

    lines += [
        f"| `{name}` | {LOSSES.describe(name).replace('``', '`').replace('|', chr(92) + '|')} |"
        for name in facezoo.list_losses()
    ]
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """``--help`` of ``facezoo`` and of each of its commands."""
    from facezoo.cli import build_parser

    lines = ["# Command line", "", "`facezoo` and `python -m facezoo` are the same command.", ""]
    for name, parser in parsers(build_parser()):
        parser.formatter_class = WideHelp
        lines += [f"## {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


class WideHelp(argparse.HelpFormatter):
    """Lines of one width, whatever terminal the site is built in."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=110, max_help_position=32)


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those of its commands."""
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


def top_level_page() -> str:
    """The public names of ``facezoo`` that are not packages."""
    import facezoo

    names = [name for name in facezoo.__all__ if callable(getattr(facezoo, name))]
    pages = (
        f"::: {getattr(facezoo, name).__module__}.{getattr(facezoo, name).__name__}"
        for name in sorted(names)
        if not is_method(name)
    )
    methods = ", ".join(f"`{name}`" for name in names if is_method(name))
    text = "# facezoo\n\nThe public names of the top level, imported on first use.\n\n" + "\n\n".join(pages) + "\n"
    return text + (f"\nMethods of registries, see [Extending](../extending.md): {methods}.\n" if methods else "")


def is_method(name: str) -> bool:
    """Whether a public name is a bound method, which has no page of its own."""
    import facezoo

    return hasattr(getattr(facezoo, name), "__self__")


def package_page(package: str) -> str:
    """One package: its docstring, then every name of its ``__all__``."""
    module = importlib.import_module(f"facezoo.{package}")
    lines = [f"# facezoo.{package}", "", (module.__doc__ or "").strip(), ""]
    for name in module.__all__:
        entry = getattr(module, name)
        home = getattr(entry, "__module__", None)
        own = home is not None and f"{home}.".startswith(
            f"facezoo.{package}."
        )  # others have their entry where they live
        if callable(entry) and own and not hasattr(entry, "__self__"):
            lines += [f"::: {home}.{entry.__qualname__}", ""]
    return "\n".join(lines)


def paper_link(paper: str) -> str:
    """A link where ``paper`` is an arXiv number, else the text."""
    number = paper.removeprefix("arXiv ").split(",")[0]
    return f"[{paper}](https://arxiv.org/abs/{number})" if number.replace(".", "").isdigit() else paper
