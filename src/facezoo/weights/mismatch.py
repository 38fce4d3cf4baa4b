"""Messages about mismatches between a checkpoint and a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from facezoo.weights.errors import shorten

# Replaceable parts, by the prefix of their names.
REPLACEABLE = {
    "stem": "stem.",
    "pool": "head.pool.",
    "hidden": "head.hidden",
    "embedding": "head.embedding",
    "classifier": "classifier.",
}
FIRST_SHORTCUT = (
    "stages.0.blocks.0.shortcut."  # ResNet-18 and -34 have it with a stem after which the first stage has a stride
)
_SHOWN = 3
_NAME = 200  # largest number of characters for one name and its description


@dataclass(frozen=True)
class Mismatch:
    """The differences between a checkpoint and a network, by facezoo's names.

    Attributes:
        missing: names that only the network has.
        unexpected: names that only the checkpoint has.
        mismatched: names with another shape.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @classmethod
    def between(cls, chosen: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Mismatch:
        """Compare the tensors to load with those of the network."""
        return cls(
            missing=tuple(key for key in target if key not in chosen),
            unexpected=tuple(key for key in chosen if key not in target),
            mismatched=tuple(key for key in chosen if key in target and chosen[key].shape != target[key].shape),
        )

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.mismatched)

    def of(self, part: str) -> Mismatch:
        """The differences in one part."""
        mine = (tuple(key for key in keys if self._part_of(key) == part) for keys in self._kinds())
        return Mismatch(*mine)

    def parts(self) -> set[str]:
        """The affected parts; ``""`` stands for names outside all parts."""
        return {self._part_of(key) for keys in self._kinds() for key in keys}

    def _part_of(self, key: str) -> str:
        """:func:`part_of`; a first shortcut that only one side has is counted to the stem if that differs too."""
        alone = key.startswith(FIRST_SHORTCUT) and key not in self.mismatched
        return (
            "stem"
            if alone and any(part_of(other) == "stem" for keys in self._kinds() for other in keys)
            else part_of(key)
        )

    def _kinds(self) -> tuple[tuple[str, ...], ...]:
        return self.missing, self.unexpected, self.mismatched


def part_of(key: str) -> str:
    """The replaceable part of a name, ``""`` for none."""
    return next((part for part, prefix in REPLACEABLE.items() if key.startswith(prefix)), "")


def describe(
    mismatch: Mismatch, chosen: Mapping[str, Tensor], target: Mapping[str, Tensor], names: Mapping[str, str]
) -> str:
    """Describe the differences, and what to do.

    Args:
        mismatch: the differences; not empty.
        chosen: the tensors to load.
        target: the network's tensors.
        names: the checkpoint's own names, if they are known and differ from facezoo's.
    """
    parts, positions = mismatch.parts(), chosen.get("stem.positions")
    hint = ""
    if (
        "stem.positions" in mismatch.mismatched
        and positions is not None
        and positions.shape[1:] == target["stem.positions"].shape[1:]
    ):
        hint = f". Pass img_size=, the size of the checkpoint's images, to have its {len(positions)} positions resized"
    if "" not in parts:
        lines = "; ".join(_describe_part(part, mismatch.of(part), chosen, target, names) for part in sorted(parts))
        asked = ", ".join(repr(part) for part in REPLACEABLE if part in parts) + ("," if len(parts) == 1 else "")
        return f"{lines}. Pass replace=({asked}) to do without the checkpoint's and keep the network's own, random weights{hint}"
    return (
        f"{_list(mismatch, chosen, target, names)}. It is a checkpoint of another network (on the command line, name that one "
        f"with --model NAME), or of another form of it (stem, img_size){_depths(chosen, target)}{hint}"
    )


def some(keys: Collection[str]) -> str:
    """The first names, and an ellipsis if there are more."""
    return ", ".join(shorten(key, _NAME) for key in list(keys)[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")


def _describe_part(
    part: str,
    mismatch: Mismatch,
    chosen: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    names: Mapping[str, str],
) -> str:
    theirs, ours = _shape(part, chosen), _shape(part, target)
    if theirs == ours:  # a bias, a norm
        return f"{part}: {_list(mismatch, chosen, target, names)}"
    return f"{part}: {theirs} in the checkpoint, {ours} in the network"


def _list(
    mismatch: Mismatch, chosen: Mapping[str, Tensor], target: Mapping[str, Tensor], names: Mapping[str, str]
) -> str:
    def theirs(key: str) -> str:
        return f" [{names[key]} in the checkpoint]" if key in names else ""

    def shapes(key: str) -> str:
        return f"{key} {tuple(chosen[key].shape)} instead of {tuple(target[key].shape)}{theirs(key)}"

    kinds: tuple[tuple[str, tuple[str, ...], Callable[[str], str]], ...] = (
        ("missing", mismatch.missing, str),
        ("unexpected", mismatch.unexpected, lambda key: key + theirs(key)),
        ("of another shape", mismatch.mismatched, shapes),
    )
    return ", ".join(
        f"{len(keys)} {kind} ({some([say(key) for key in keys[: _SHOWN + 1]])})" for kind, keys, say in kinds if keys
    )


def _shape(part: str, tensors: Mapping[str, Tensor]) -> str:
    """The shape of the part's first weight, which shows classes, widths or channels."""
    shapes = (tuple(t.shape) for key, t in tensors.items() if key.startswith(REPLACEABLE[part]) and t.dim())
    return str(next(shapes, "none"))


def _depths(chosen: Collection[str], target: Collection[str]) -> str:
    """The blocks per stage if they differ: networks of a family differ in them."""

    def depths(keys: Collection[str]) -> str:
        blocks: dict[int, set[str]] = {}
        for key in keys:
            match = re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", key)
            if match and not key.endswith(".num_batches_tracked"):  # counters may be missing in the checkpoint
                blocks.setdefault(int(match[1]), set()).add(match[2])
        return ", ".join(str(len(blocks[stage])) for stage in sorted(blocks))

    theirs, ours = depths(chosen), depths(target)
    if not theirs or theirs == ours:
        return ""
    return f"; its stages have {theirs} blocks, those of this network {ours}"
