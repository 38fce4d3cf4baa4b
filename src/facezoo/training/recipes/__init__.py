"""Recipes: TOML files with the settings of a training, their source and the figures they gave. Nothing here imports torch.

To add one, register its file: ``register_recipe("mine", path)``; ``facezoo train --recipe path/to/mine.toml`` takes a file, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facezoo.files import write_atomic
from facezoo.registry import Registry, unknown_name_message
from facezoo.training.callbacks import Callback, RunStart
from facezoo.training.config import SECTIONS, TrainConfig, read_table

STATUSES = {
    "measured": "measured here",
    "published": "published; not run here",
    "never run": "never run on its data",
}
_TEXTS = ("about", "status", "source", "made_for")
_FIELDS = (*_TEXTS, "figures", "images", "identities", "course", "steps")

RECIPES: Registry[Path] = Registry("recipe", listed_by="`facezoo recipes`")


def register_recipe(name: str, path: Path) -> None:
    """Register the TOML file ``path`` as a recipe. Raises DuplicateNameError if the name is taken."""
    RECIPES.register(name, path)


def list_recipes() -> list[str]:
    """Names of all recipes, including those of plugins."""
    return RECIPES.list()


@dataclass(frozen=True)
class Recipe:
    """Settings of a training, with their source and figures.

    Attributes:
        name: its name.
        about: one line.
        status: ``measured`` here, ``published`` elsewhere, or ``never run`` on its data.
        source: where the settings and the figures come from.
        made_for: the data set that it was made for.
        figures: the figures that it gave, or that are published for it.
        images: number of training images of that data set.
        identities: number of identities in it.
        course: whether it follows the rules of the course.
        steps: the commands, if it needs more than one.
        settings: the sections of :class:`~facezoo.training.TrainConfig`.
    """

    name: str
    about: str
    status: str
    source: str
    made_for: str
    figures: tuple[str, ...]
    images: int
    identities: int
    course: bool
    steps: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]

    def config(self) -> TrainConfig:
        """The settings, all others at their default."""
        return TrainConfig.from_dict(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        texts = {name: getattr(self, name) for name in ("name", *_TEXTS, "images", "identities", "course")}
        return {**texts, "figures": list(self.figures), "steps": list(self.steps), **self.config().to_dict()}


def get_recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of a TOML file.

    Raises:
        UnknownNameError: an unknown recipe.
        ValueError: the file is not a recipe; the message names file and field.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES[name]
    try:
        values = read_table(path)
    except OSError as error:
        raise ValueError(f"recipe {path}: {error.strerror}") from None
    for key in values:
        if key not in (*_FIELDS, *SECTIONS):
            raise ValueError(f"{path}: {unknown_name_message('field of a recipe', key[:200], [*_FIELDS, *SECTIONS])}")
    for key in _TEXTS:
        if not isinstance(values.get(key), str):
            raise ValueError(f"{path}: a recipe has a text {key!r}")
    if values["status"] not in STATUSES:
        raise ValueError(f"{path}: status is one of {', '.join(STATUSES)}; got {values['status'][:200]!r}")
    settings = {key: value for key, value in values.items() if key in SECTIONS}
    recipe = Recipe(
        name=path.stem,
        figures=tuple(values.get("figures", ())),
        images=int(values.get("images", 0)),
        identities=int(values.get("identities", 0)),
        course=bool(values.get("course", False)),
        steps=tuple(values.get("steps", ())),
        settings=settings,
        **{key: values[key] for key in _TEXTS},
    )
    try:
        recipe.config()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return recipe


def explain(recipe: Recipe, config: TrainConfig) -> str:
    """Describe a recipe: source, figures, cost, and every setting of ``config`` that is not the default."""
    defaults = TrainConfig().to_dict()
    lines = [f"{recipe.name}: {recipe.about}", f"status: {STATUSES[recipe.status]}", f"source: {recipe.source}"]
    lines += [
        f"data: {recipe.made_for} ({recipe.images:,} images of {recipe.identities:,} people, as published or estimated)"
    ]
    lines += [f"figure: {figure}" for figure in recipe.figures] + [f"cost: {cost(recipe, config)}"]
    lines += [f"step {number}: {step}" for number, step in enumerate(recipe.steps, start=1)]
    lines += [f"warning: {text}" for text in course_warnings(config)] if recipe.course else []
    for section, own in config.to_dict().items():
        for name, value in own.items():
            if value != defaults[section][name]:
                before = json.dumps(defaults[section][name])
                lines.append(f"  {section}.{name} = {json.dumps(value)}  (default {before})")
    return "\n".join(lines)


def cost(recipe: Recipe, config: TrainConfig) -> str:
    """Parameters, and estimated hours and memory on a T4-class GPU in fp16. Nothing was measured on such a GPU.

    Hours: three times the multiply-accumulates of a forward pass (forward, and backward for inputs and weights), two operations
    each, for every image of every epoch, at an assumed 10 TFLOP/s of the 65 that such a GPU has on paper. The class head, loading
    and evaluation are not counted. Memory: what autograd keeps of a pass, at two bytes a number; weights and optimizer add to it.
    """
    from facezoo.profile import profile_model  # needs torch

    own = config.model
    arguments = {"embedding_dim": own.embedding_dim, "img_size": own.img_size, "stem": own.stem, **own.options}
    profile = profile_model(own.name, **arguments)
    operations = 3 * 2 * profile.macs * recipe.images * config.optimization.epochs
    hours = operations / 10e12 / 3600
    share = config.optimization.batch_size // config.optimization.accumulation
    memory = profile.training_memory(share) / 2 / 2**30
    head = own.embedding_dim * recipe.identities
    return (
        f"{(profile.params + head) / 1e6:.1f} M parameters; on a T4-class GPU (fp16) about {hours:,.0f} hours and "
        f"{memory:.1f} GiB of activations for {share} images a pass (estimated from operations, at 10 TFLOP/s)"
    )


def course_warnings(config: TrainConfig) -> list[str]:
    """List the settings that break the rules of the course."""
    found = []
    margins = [name for name in (config.model.margin, *config.model.joint) if name != "linear"]
    soft = {
        "label smoothing": config.optimization.label_smoothing,
        "mixup": config.augmentation.mixup_alpha,
        "CutMix": config.augmentation.cutmix_alpha,
    }
    used = [name for name, value in soft.items() if value]
    if margins and used:
        found.append(f"the course allows no {' or '.join(used)} together with a margin head ({', '.join(margins)})")
    if config.model.max_params is None or config.model.max_params > 30e6:
        found.append("the course allows 30 million parameters: keep max_params at 30e6")
    others = [str(name or "").startswith("hf-hub:") for name in (config.model.init_checkpoint, config.model.teacher)]
    if config.model.init_pretrained or any(others):
        found.append("the course allows no pretrained weights, neither as a start nor as a teacher")
    if config.model.name.startswith(("vit", "swin", "edge", "cbam", "mobilevit")):
        found.append(f"the course allows no attention, which {config.model.name} has")
    return found


class RecipeNote(Callback):
    """Writes ``recipe.json`` into the run folder, with the recipe that the settings come from.

    Args:
        recipe: the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def on_start(self, run: RunStart) -> None:
        """Write it."""
        write_atomic(run.folder / "recipe.json", json.dumps(self.recipe.to_dict(), indent=2) + "\n")


for _path in sorted(Path(__file__).parent.glob("*.toml")):
    RECIPES.register(_path.stem, _path)
