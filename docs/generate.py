"""The hook of MkDocs (see ``hooks`` in mkdocs.yml): pages that are made from the package, and a last look at every page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from making import about, api, command_line, results, search, weights, zoo


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the documentation's files."""
    pages = {
        "models.md": zoo.models_page(),
        "margins.md": zoo.margins_page(),
        "weights.md": weights.weights_page(),
        "settings.md": zoo.settings_page(),
        "cli.md": command_line.cli_page(),
        "benchmarks.md": results.benchmarks_page(),
        "changelog.md": about.root_page("CHANGELOG.md"),
        "contributing.md": about.root_page("CONTRIBUTING.md"),
        "security.md": about.root_page("SECURITY.md"),
        "citation.md": about.citation_page(),
        "api/facezoo.md": api.top_level_page(),
    }
    pages |= {f"api/{package}.md": api.package_page(package) for package in api.PACKAGES}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Stop where reST stands on a page as it is written.

    Raises:
        PluginError: a role such as ``:func:`` in the text.
    """
    if found := re.search(r":(?:func|class|meth|mod|attr|data|exc|obj):(?:`|<code|~)", output):
        raise PluginError(
            f"{page.file.src_uri} shows {output[found.start() : found.start() + 60]!r}; see docs/making/api.py"
        )
    return output


def on_post_build(config: Any) -> None:
    """Stop where a search of the finished site leads elsewhere than it should.

    Raises:
        PluginError: what was searched, what it found, and what should come first.
    """
    if complaints := search.misled(Path(config["site_dir"]) / "search" / "search_index.json"):
        raise PluginError("; ".join(complaints))
