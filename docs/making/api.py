"""One page per package from its ``__all__``, and where each public name is described."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from types import ModuleType

from making.text import table

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
SHARED = (
    "facezoo.profile.profile_model",
    "facezoo.profile.ModelProfile",
    "facezoo.preprocessing.Preprocessing",
    "facezoo.registry.Registry",
    "facezoo.registry.UnknownNameError",
    "facezoo.registry.DuplicateNameError",
    "facezoo.registry.PluginWarning",
)
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc|obj):`~?([^`]+)`")


def own_entries(package: str) -> list[str]:
    """Full names of what ``facezoo.PACKAGE`` makes public and defines itself; what it only passes on stands elsewhere."""
    module = importlib.import_module(f"facezoo.{package}")
    found = []
    for name in module.__all__:
        entry = getattr(module, name)
        home = getattr(entry, "__module__", None)
        own = home is not None and f"{home}.".startswith(f"facezoo.{package}.")
        if callable(entry) and own and not hasattr(entry, "__self__"):
            found.append(f"{home}.{entry.__qualname__}")
    return found


@functools.cache
def documented() -> dict[str, str]:
    """Full name of everything that has a heading on an API page, methods too -> its page."""
    homes = dict.fromkeys(SHARED, "api/facezoo.md")
    homes |= {path: f"api/{package}.md" for package in PACKAGES for path in own_entries(package)}
    pages = dict(homes)
    for path, page in homes.items():
        entry = found_object(path)
        if inspect.isclass(entry):
            members = vars(entry).items()
            pages |= {f"{path}.{name}": page for name, member in members if name[0] != "_" and is_described(member)}
    return pages


def is_described(member: object) -> bool:
    """Whether a member of a class has a docstring of its own, and with it a heading."""
    inner = getattr(member, "__func__", getattr(member, "func", member))
    return callable(inner) and bool(getattr(inner, "__doc__", None))


def found_object(path: str) -> object | None:
    """The object of facezoo that a dotted name means, or None."""
    if not path.startswith("facezoo."):
        return None
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            entry: object = importlib.import_module(".".join(parts[:cut]))
            for name in parts[cut:]:
                entry = getattr(entry, name)
        except (ImportError, AttributeError):
            continue
        return entry
    return None


def target(name: str, scope: str) -> str | None:
    """The heading that a role in the docstring of ``scope`` means, or None for what has no heading."""
    headings = documented()
    path = name.lstrip("~.").removesuffix("()")
    scopes = scope.split(".")
    for length in range(len(scopes), 0, -1):
        if (inner := f"{'.'.join(scopes[:length])}.{path}") in headings:
            return inner
    entry = found_object(path)
    if entry is not None and not isinstance(entry, ModuleType):
        path = f"{getattr(entry, '__module__', '')}.{getattr(entry, '__qualname__', '')}"
    if path in headings:
        return path
    ends = [heading for heading in headings if heading.endswith(f".{path}")]
    return ends[0] if len(ends) == 1 else None


def with_links(text: str, scope: str = "facezoo") -> str:
    """``text`` whose roles are cross-references, or plain code where the thing has no heading."""

    def link(match: re.Match[str]) -> str:
        shown = match[1] if "~" not in match[0] else match[1].rsplit(".", 1)[-1]
        heading = target(match[1], scope)
        return f"[`{shown}`][{heading}]" if heading else f"`{shown}`"

    return ROLE.sub(link, text)


def top_level_page() -> str:
    """The names of ``facezoo`` itself, each with its first sentence and the page that says the rest."""
    import facezoo

    rows = []
    for name in sorted(facezoo.__all__):
        entry = getattr(facezoo, name)
        if isinstance(entry, ModuleType):
            rows.append((f"[`{name}`]({name}.md)", first_line(entry)))
        elif callable(entry) and not name.startswith("_"):
            heading = target(f"{entry.__module__}.{entry.__qualname__}", "facezoo")
            shown = f"[`{name}`][{heading}]" if heading and not hasattr(entry, "__self__") else f"`{name}`"
            about = (
                "A decorator, see [Bring your own](../extending.md)."
                if hasattr(entry, "__self__")
                else first_line(entry)
            )
            rows.append((shown, about))
    lines = ["# facezoo", "", "The public names of the top level, imported on first use.", ""]
    lines += [*table(("Name", "What it is"), rows), "", "What all packages share:", ""]
    return "\n".join(lines + [f"::: {path}\n" for path in SHARED])


def first_line(entry: object) -> str:
    """The first line of a docstring."""
    return with_links((inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`"))


def package_page(package: str) -> str:
    """One package: its docstring, then every name of its ``__all__``."""
    module = importlib.import_module(f"facezoo.{package}")
    quiet = ["---", "search:", "  boost: 0.5", "---"]  # what a guide says comes before the reference
    lines = [*quiet, f"# facezoo.{package}", "", with_links((module.__doc__ or "").strip(), f"facezoo.{package}"), ""]
    return "\n".join(lines + [f"::: {path}\n" for path in own_entries(package)])
