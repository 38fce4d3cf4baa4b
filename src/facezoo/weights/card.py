"""The model card: ``README.md`` with YAML front matter for the Hub, written from the metadata of the weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from facezoo._version import __version__
from facezoo.columns import markdown_table
from facezoo.counting import count_macs, parameters_of
from facezoo.weights.config import PretrainedConfig
from facezoo.weights.records import ReportedFigure


def network_cost(model: Any) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for one image of ``model.preprocessing``'s size, counted by ``profile_network``."""
    return parameters_of(model), count_macs(model)[""]


def model_card(config: PretrainedConfig, network: Any, address: str) -> str:
    """The text of ``README.md``.

    Args:
        config: the content of ``config.json``.
        network: the network, for its parameters, multiply-accumulates and paper.
        address: argument for :func:`facezoo.create_model`, ``"hf-hub:owner/name"`` or ``"local-dir:path"``.
    """
    model, preprocessing, figures = config.model, config.preprocessing, config.figures
    params, macs = network_cost(network)
    title = address.rpartition("/")[2] if address.startswith("hf-hub:") else str(model["name"])
    height, width = preprocessing.img_size
    rows = [
        ("Network", f"`{model['name']}` ({network.spec.paper}), stem `{model.get('stem', 'face')}`"),
        ("Parameters", f"{params:,}"),
        ("Multiply-accumulates", f"{macs:,} for one image of {height}×{width}"),
        ("Embedding", f"{network.embedding_dim} dimensions, not L2-normalized"),
        ("Classifier", f"{model['num_classes']} classes" if model.get("num_classes") else "none"),
        *([("Margin head", f"`{config.margin.name}`, in `margin.safetensors`")] if config.margin else []),
        ("Input", f"{model.get('in_chans', 3)} channels, {preprocessing.channel_order.upper()}, {height}×{width}"),
        ("Mean, std", f"{_numbers(preprocessing.mean)}, {_numbers(preprocessing.std)} on images in [0, 1]"),
        ("Alignment", f"template `{preprocessing.alignment}`"),
        ("License", str(config.license)),
        ("Source", config.source or "not stated"),
        ("SHA-256 of the weights", f"`{config.sha256}`"),
    ]
    parts = [
        _front_matter(title, network.spec.family, str(config.license), figures),
        f"# {title}",
        config.description or f"A face-recognition network, `{model['name']}`, written by facezoo {__version__}.",
        markdown_table(("", ""), rows),
        "## Use",
        f'```python\nimport facezoo\nfrom facezoo.data import eval_transform\n\nmodel = facezoo.create_model("{address}").eval()\n'
        "transform = eval_transform(model.preprocessing)  # aligned crop -> input\n```",
    ]
    if figures:
        header = ("Benchmark", "Metric", "Value", "Source")
        lines = [(figure.benchmark, figure.metric, f"{figure.value:g}", figure.source) for figure in figures]
        parts += ["## Reported figures", markdown_table(header, lines)]
    return "\n\n".join(parts) + "\n"


def _front_matter(title: str, family: str, license: str, figures: Sequence[ReportedFigure]) -> str:
    """YAML between two lines of dashes, written by huggingface_hub's own classes."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="face verification",
            dataset_type=_slug(figure.benchmark),
            dataset_name=figure.benchmark,
            metric_type=_slug(figure.metric),
            metric_name=figure.metric,
            metric_value=figure.value,
            source_name=figure.source
            if (address := _address(figure.source))
            else None,  # the Hub requires an address here
            source_url=address,
        )
        for figure in figures
    ]
    data = ModelCardData(
        license=license,
        library_name="facezoo",
        pipeline_tag="image-feature-extraction",
        tags=["facezoo", "face-recognition", "face-verification", family],
        model_name=title if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _address(source: str) -> str | None:
    """The address in a source, if there is one."""
    found = re.search(r"https?://\S+", source)
    return found.group().rstrip(".,;)") if found else None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
