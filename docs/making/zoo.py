"""The pages of models and margins."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

import torch

from making import networks, results, svg
from making.text import amount, escaped, paper_link, table

# A network of each kind, and the stage whose last block is drawn.
DRAWN = {
    "resnet50": 1,
    "se_resnet50": 1,
    "iresnet50": 1,
    "mobilefacenet": 1,
    "convnext_tiny": 1,
    "vit_tiny_patch16": 0,
    "repvgg_a0": 1,
    "lightcnn29": 1,
    "ghostnet_100": 1,
    "mixfacenet_s": 1,
    "edgeface_xxs": 1,
    "inception_resnet_v1": 1,
}
COUNTED = ("params", "params with 8,631 classes", "MACs", "ImageNet params", "ImageNet MACs")
KINDS = {
    "str": "words",
    "dict": "JSON, or KEY=VALUE ...",
    "tuple": "a list of words",
    "bool": "on, or off by `--no-...`",
}
CURVES = ("normface", "cosface", "arcface", "combined", "sphereface_r")


def models_page() -> str:
    """Every registered network with its exact size, in the face form and in the published one, and pictures of some."""
    lines = [
        "# Models",
        "",
        "Parameters and multiply-accumulates (MACs, those of convolutions and matrix products for one image) are exact: a test "
        "counts them anew and compares most with [other libraries](benchmarks.md#parameters-multiply-accumulates-and-memory). "
        'Point at a figure to see all its digits. *Face*: 112×112 pixels, `stem="face"`, '
        "512-dimensional embedding, no classifier: what `facezoo.create_model(name)` builds. *With 8,631 classes*: the "
        "parameters together with the class centers of the course. *ImageNet*: the published network, 224×224 pixels, "
        '`stem="imagenet", embedding_dim=None, num_classes=1000`.',
        "",
        "A click on a heading sorts. The field finds names, families and papers; `params<30` and `macs<1` keep networks of fewer "
        "million parameters (with 8,631 classes) and fewer G MACs.",
        "",
        models_table(),
        "",
        "The same list in the terminal: `facezoo models --max-params 30M --max-macs 1G --num-classes 8631`.",
        "",
        "## Inside the networks",
        "",
        "Drawn from each network's record and from the operations that its block runs.",
        "",
    ]
    for name, stage in DRAWN.items():
        lines += [f"### {name}", "", '<div class="fz-pictures">']
        lines += [networks.network_picture(name), networks.block_picture(name, stage), "</div>", ""]
    return "\n".join(lines) + "\n"


def models_table() -> str:
    """The table of all networks, as HTML: its cells carry the exact numbers that are sorted by."""
    import facezoo

    columns = ("Model", "Family", "Params", "With 8,631 classes", "MACs", "Params, ImageNet", "MACs, ImageNet", "Paper")
    heads = "".join(
        f"<th{' class=fz-number' if 2 <= index <= 6 else ''}>{name}</th>" for index, name in enumerate(columns)
    )
    known = {row["model"]: row for row in results.read("params_flops")["rows"]}
    rows = []
    for name in facezoo.list_models():
        spec = facezoo.models.get_model_spec(name)
        cells = "".join(number_cell(value) for value in sizes(name, known))
        rows.append(
            f"<tr><td><code>{name}</code></td><td>{html.escape(spec.family)}</td>{cells}<td>{paper_html(spec.paper)}</td></tr>"
        )
    body = "\n".join(rows)
    return (
        '<div class="fz-sorted" data-budget="params:3,macs:4">\n'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def sizes(name: str, known: Mapping[str, Mapping[str, Any]]) -> list[int | None]:
    """The columns ``COUNTED`` of one network: from the committed counts, which a test repeats, or counted now."""
    import facezoo

    if name in known:
        return [known[name][column] for column in COUNTED]
    face = facezoo.profile_model(name, memory=False)
    with_classes = facezoo.profile_model(name, num_classes=8631, memory=False).params
    if "imagenet" not in facezoo.models.get_model_spec(name).stems:
        return [face.params, with_classes, face.macs, None, None]
    form = {"stem": "imagenet", "img_size": 224, "embedding_dim": None, "num_classes": 1000}
    published = facezoo.profile_model(name, memory=False, **form)
    return [face.params, with_classes, face.macs, published.params, published.macs]


def number_cell(value: int | None) -> str:
    """A table cell with a short number; the exact one is its title, and what it is sorted by."""
    if value is None:
        return '<td class="fz-number">–</td>'
    return f'<td class="fz-number" data-value="{value}" title="{value:,}">{amount(value)}</td>'


def paper_html(paper: str) -> str:
    """A link where ``paper`` is an arXiv number, else the text."""
    linked = paper_link(paper)
    if linked == paper:
        return html.escape(paper)
    words, address = linked[1:-1].split("](")
    return f'<a href="{address}">{html.escape(words)}</a>'


def target_curve(name: str, angles: torch.Tensor) -> torch.Tensor:
    """The target's logit over the scale, at each angle (radians), read from the head's own loss.

    The other class lies at a right angle to everything, so its logit is 0 and the loss is log(1 + exp(-target)).
    """
    import facezoo

    head = facezoo.create_margin(name, embedding_dim=3, num_classes=2, scale=1.0).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
        rows = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=1).double()
        losses = torch.stack([head(row[None], torch.tensor([0])) for row in rows])
    return -torch.log(torch.expm1(losses))


def margin_pictures() -> list[str]:
    """Target logits over the angle, and where two classes meet while training."""
    angles = torch.linspace(0.001, math.pi - 0.001, 181)
    degrees = [math.degrees(angle) for angle in angles.tolist()]
    ticks = {0.0: "0°", 45.0: "45°", 90.0: "90°", 135.0: "135°", 180.0: "180°"}
    logits = svg.Axes((0, 180), (-2.2, 1.1))
    borders = svg.Axes((0, 90), (0, 90))
    half = {0.0: "0°", 30.0: "30°", 60.0: "60°", 90.0: "90°"}
    left = logits.frame(
        ticks, {value: f"{value:g}" for value in (-2.0, -1.0, 0.0, 1.0)}, "angle to the own center", "logit / s"
    )
    right = borders.frame(half, half, "angle to the own center", "angle to another center")
    legend = []
    for index, name in enumerate(CURVES):
        curve = target_curve(name, angles)
        left.append(logits.line(degrees, curve.tolist(), f"fz-line fz-line-{index}"))
        border = [math.degrees(math.acos(max(-1.0, min(1.0, value)))) for value in curve.tolist()]
        shown = [(x, y) for x, y in zip(degrees, border, strict=True) if x <= 90 and y < 90]
        right.append(borders.line([x for x, _ in shown], [y for _, y in shown], f"fz-line fz-line-{index}"))
        legend.append(f'<span class="fz-key fz-key-{index}">{name}</span>')
    keys = " ".join(legend)
    return [
        '<div class="fz-pictures">',
        svg.figure(svg.drawing(340, 260, left, "Target logits over the angle"), f"The target's logit.<br>{keys}"),
        svg.figure(
            svg.drawing(340, 260, right, "Borders between two classes"),
            f"Where two classes meet in training: a sample belongs above its line.<br>{keys}",
        ),
        "</div>",
    ]


def margins_page() -> str:
    """Every registered margin and loss, with formula and options."""
    import facezoo
    from facezoo.losses import LOSSES
    from facezoo.margins import list_margins, margin_class

    lines = [
        "# Margins and losses by name",
        "",
        "For `facezoo.create_margin(name, embedding_dim=…, num_classes=…, **options)`. θ_y is the angle between an embedding "
        "and the center of its own class, θ_j that to another one, in radians; s is `scale`, m is `margin`. Every head takes "
        "`label_smoothing`, `engine`, `block_size`, `warmup_steps`, `warmup_scale` and `interclass_filter` too. What they are "
        "for is said in [Margins and losses](losses.md).",
        "",
        *margin_pictures(),
        "",
    ]
    for name in list_margins():
        spec = margin_class(name)
        options = ", ".join(f"`{key}={value!r}`" for key, value in spec.defaults.items()) or "none"
        lines += [f"## {name}", "", f"{spec.title}, {paper_link(spec.paper)}.", ""]
        lines += [f"- target: {spec.formula}", f"- other classes: {spec.other_formula}", f"- options: {options}", ""]
    rows = [(f"`{name}`", LOSSES.describe(name).replace("``", "`")) for name in facezoo.list_losses()]
    lines += ["## Losses on embeddings", "", "For `facezoo.create_loss(name, **options)`.", ""]
    return "\n".join([*lines, *table(("Name", "What it is"), rows)]) + "\n"


def settings_page() -> str:
    """Every setting of a training by section: name on the command line, default, choices, what it does."""
    import dataclasses
    import json

    from facezoo.training.config import SECTIONS
    from facezoo.training.settings import field_kind, flat_name

    lines = [
        "# Settings of a training",
        "",
        "Options of `facezoo train`, fields of [`TrainConfig`][facezoo.training.config.TrainConfig], and keys of TOML and JSON "
        "files, by section. *Goes on*: may differ when a run goes on with `--resume`, since it changes no result.",
        "",
    ]
    for section, kind in SECTIONS.items():
        lines += [f"## {section}", "", (kind.__doc__ or "").split("\n")[0], ""]
        rows = []
        for entry in dataclasses.fields(kind):
            has_default = entry.default is not dataclasses.MISSING
            default = entry.default if has_default else entry.default_factory()  # type: ignore[misc]
            words = "none" if default is None else json.dumps(default) if not isinstance(default, str) else default
            choices, check = entry.metadata["choices"], entry.metadata["check"]
            type_of = field_kind(kind, entry.name)[0].__name__
            values = ", ".join(f"`{word}`" for word in choices) or (check[1] if check else KINDS.get(type_of, type_of))
            flag = (
                "DATA"
                if kind.__name__ == "DataSettings" and entry.name == "path"
                else "--" + flat_name(entry).replace("_", "-")
            )
            field = "" if flat_name(entry) == entry.name else f"<br>in files `{entry.name}`"
            goes_on = " *Goes on.*" if entry.metadata["resumable"] else ""
            about = escaped(entry.metadata["help"]).replace("|", "&#124;")
            rows.append((f"`{flag}`{field}", f"`{words}`", values, about + goes_on))
        lines += [*table(("Option", "Default", "Values", "What it does"), rows), ""]
    return "\n".join(lines)
