"""Pictures of networks: the stages from a network's record, the inside of a block from the operations that it runs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from making import svg

# Operations with a box of their own, by the start of torch's name; what is not here (views, permutations) is passed through.
KINDS = {
    "conv2d": "conv",
    "linear": "conv",
    "matmul": "conv",
    "scaled_dot_product_attention": "conv",
    "batch_norm": "norm",
    "layer_norm": "norm",
    "relu": "act",
    "hardtanh": "act",
    "prelu": "act",
    "gelu": "act",
    "silu": "act",
    "hardswish": "act",
    "hardsigmoid": "act",
    "sigmoid": "act",
    "softmax": "act",
    "maximum": "act",
    "mean": "pool",
    "adaptive_avg_pool2d": "pool",
    "max_pool2d": "pool",
    "avg_pool2d": "pool",
    "add": "join",
    "mul": "join",
    "cat": "join",
    "roll": "other",
    "chunk": "other",
    "split": "other",
}
WORDS = {
    "batch_norm": "batch norm",
    "layer_norm": "layer norm",
    "hardtanh": "ReLU6",
    "relu": "ReLU",
    "prelu": "PReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "hardswish": "hard swish",
    "hardsigmoid": "hard sigmoid",
    "mean": "mean over the map",
    "adaptive_avg_pool2d": "mean over the map",
    "max_pool2d": "max pool",
    "scaled_dot_product_attention": "attention",
    "maximum": "larger of two",
    "add": "+",
    "mul": "×",
    "cat": "concatenate",
    "matmul": "product",
}
STEP, BOX = 30, 20


def network_picture(name: str) -> str:
    """Stem, stages and head of a network in its face form: blocks, widths, and the size of the map behind each."""
    import facezoo

    spec = facezoo.models.get_model_spec(name)
    with torch.device("meta"):
        network = facezoo.create_model(name)
    sizes = map_sizes(network)
    stem = spec.stems["face"]
    boxes = [(stem.block, f"{stem.width} channels", sizes[0], 44.0)]
    for stage, size in zip(spec.stages, sizes[1:], strict=True):
        rows = [f"{row.depth} × {row.block}" for row in stage.blocks]
        counted = [f"{rows.count(row)} × ({row})" if rows.count(row) > 1 else row for row in dict.fromkeys(rows)]
        shown = counted[0] if len(counted) == 1 else f"{stage.depth} blocks: {stage.blocks[0].block}, …"
        boxes.append((shown, f"{stage.width} channels", size, 44.0))
    head = stem.head or spec.head
    boxes.append((head.head, "512-d embedding", "", 44.0))
    parts, y = [svg.text(150, 14, "image, 3 × 112 × 112", "fz-small")], 22.0
    for index, (what, width, size, height) in enumerate(boxes):
        style = "fz-conv" if 0 < index < len(boxes) - 1 else "fz-other"
        parts += [
            svg.box(40, y, 220, height, style),
            svg.text(150, y + 18, what),
            svg.text(150, y + 35, width, "fz-small"),
        ]
        parts += [svg.path([(150, y + height), (150, y + height + 18)], "fz-flow")] if size else []
        parts += [svg.text(158, y + height + 13, size, "fz-small", "start")] if size else []
        y += height + 18
    return svg.figure(svg.drawing(300, y - 10, parts, f"Stages of {name}"), f"<code>{name}</code>")


def map_sizes(network: nn.Module) -> list[str]:
    """``channels × height × width`` behind the stem and behind every stage."""
    found: list[str] = []

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append(" × ".join(map(str, output.shape[1:])))

    hooks = [part.register_forward_hook(watch) for part in (network.stem, *network.stages)]
    with torch.no_grad():
        network.eval()(torch.empty(1, 3, 112, 112, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def block_picture(name: str, stage: int = 1) -> str:
    """What one block of a network computes: the last one of a stage, drawn from its exported graph."""
    import facezoo

    with torch.device("meta"):
        network = facezoo.create_model(name).eval()
    inside = network.stages[stage]
    block = getattr(inside, "blocks", [inside])[-1]
    seen: list[Any] = []
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    with torch.no_grad():
        network(torch.empty(1, 3, 112, 112, device="meta"))
    hook.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.export.export(block, seen[0]).graph
    nodes, edges = shown_nodes(graph)
    picture = draw_graph(nodes, edges, f"A block of {name}")
    shape = " × ".join(map(str, seen[0][0].shape[1:]))
    return svg.figure(
        picture, f"<code>{name}</code>, a block of stage {stage + 1} of {len(network.stages)}<br>input {shape}"
    )


def shown_nodes(graph: torch.fx.Graph) -> tuple[list[tuple[str, str]], list[tuple[int, int]]]:
    """Boxes (words, style) in order, the first being the input, and edges between them; quiet operations are left out."""
    boxes: list[tuple[str, str]] = [("input", "other")]
    place: dict[Any, int] = {}
    edges: list[tuple[int, int]] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            if not node.name.startswith(("p_", "b_", "c_")):
                place[node] = 0
            continue
        if node.op == "output":
            continue
        operation = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
        before = [place[source] for source in node.all_input_nodes if source in place]
        if not before:
            continue
        if operation not in KINDS or (KINDS[operation] == "join" and len(set(before)) < 2 and operation != "mul"):
            place[node] = max(before)
            continue
        boxes.append((words_of(operation, node), KINDS[operation]))
        place[node] = len(boxes) - 1
        edges += [(source, place[node]) for source in sorted(set(before))]
    return boxes, edges


def words_of(operation: str, node: torch.fx.Node) -> str:
    """What a box says."""
    if operation in ("conv2d", "linear"):
        weight = tuple(node.args[1].meta["val"].shape)
        channels = f"→ {weight[0]}"
        if operation == "linear" or weight[2:] == (1, 1):
            return f"{'linear' if operation == 'linear' else '1 × 1 conv'} {channels}"
        groups = node.args[6] if len(node.args) > 6 else 1
        kind = "depthwise" if groups == weight[0] > 1 else f"conv in {groups} groups" if groups > 1 else "conv"
        return f"{weight[2]} × {weight[3]} {kind} {channels}"
    if operation == "mul" and len([n for n in node.all_input_nodes if n.op == "call_function"]) < 2:
        return "× learned scale"
    return WORDS.get(operation, operation.replace("_", " "))


def draw_graph(boxes: list[tuple[str, str]], edges: list[tuple[int, int]], title: str) -> str:
    """Boxes in a column; an edge that skips some runs along the right side."""
    right, parts = 200.0, []
    lanes: list[int] = []  # the last box that each lane on the right is taken up to
    for start, end in edges:
        y0, y1 = start * STEP + 10 + BOX, end * STEP + 10
        if end == start + 1:
            parts.append(svg.path([(105, y0), (105, y1)], "fz-flow"))
            continue
        lane = next((index for index, until in enumerate(lanes) if until <= start), len(lanes))
        lanes[lane : lane + 1] = [end]
        x = right + 14 + 12 * lane
        corners = [(right, y0 - BOX / 2), (x, y0 - BOX / 2), (x, y1 + BOX / 2), (right, y1 + BOX / 2)]
        parts.append(svg.path(corners, "fz-skip"))
    for index, (words, style) in enumerate(boxes):
        y = index * STEP + 10
        parts += [svg.box(10, y, 190, BOX, f"fz-{style}"), svg.text(105, y + 14, words, "fz-small")]
    return svg.drawing(right + 26 + 12 * len(lanes), len(boxes) * STEP + 10, parts, title)
