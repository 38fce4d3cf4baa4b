"""Freezing parts of the backbone, for the whole run or until some epoch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn

_RANGE = re.compile(r"(\d+)-(\d+)")


class Freezing:
    """Freezes and unfreezes parts of the backbone by epoch.

    A frozen part gets no gradient and is in evaluation mode: its batch norms use their running statistics without updating them,
    and its dropout is off.

    Args:
        backbone: the network.
        freeze: names of parts, see :func:`find_part`.
        unfreeze: epoch, counted from 1, in which training of a part in ``freeze`` starts. The others stay frozen.

    Raises:
        ValueError: an unknown part, nothing is left to train, or what is unfrozen lies in another part that is not.
    """

    def __init__(self, backbone: nn.Module, freeze: Iterable[str], unfreeze: Mapping[str, int]) -> None:
        self._parts = {name: find_part(backbone, name) for name in freeze}
        self._unfreeze = dict(unfreeze)
        self._trained = {id(p) for p in backbone.parameters() if p.requires_grad}
        self._frozen: tuple[str, ...] = ()
        for name, modules in self._parts.items():
            if name not in self._unfreeze:
                for module in modules:
                    module.requires_grad_(False)
        if self._parts and self._trained and not any(p.requires_grad for p in backbone.parameters()):
            raise ValueError("freeze leaves nothing of the backbone to train")
        for name in set(self._unfreeze) & set(self._parts):
            own = {id(p) for module in self._parts[name] for p in module.parameters()} & self._trained
            if own and not any(p.requires_grad for p in backbone.parameters() if id(p) in own):
                raise ValueError(f"unfreeze has no effect on {name}: it lies within another part that stays frozen")

    def begin_epoch(self, epoch: int) -> bool:
        """Freeze and unfreeze for ``epoch``, counted from 0; call it after ``train()``. Returns whether the parts have changed."""
        frozen = tuple(name for name in self._parts if epoch + 1 < self._unfreeze.get(name, epoch + 2))
        for modules in self._parts.values():
            for module in modules:
                for parameter in module.parameters():
                    parameter.requires_grad_(id(parameter) in self._trained)
        for name in frozen:
            for module in self._parts[name]:
                module.requires_grad_(False)
                module.eval()
        changed, self._frozen = frozen != self._frozen, frozen
        return changed


def find_part(backbone: nn.Module, name: str) -> list[nn.Module]:
    """The modules called ``name``: ``stem``, ``stages.1``, ``stages.0-2`` (three stages), ``stages.3.blocks.0``, ``head``.

    Raises:
        ValueError: an unknown part; the message lists the parts.
    """
    modules: list[nn.Module] = []
    for path in _expanded(name):
        try:
            found = backbone.get_submodule(path) if path else None
        except AttributeError:
            found = None
        if found is None:
            known = [child for child, module in backbone.named_children() if any(True for _ in module.parameters())]
            stages = getattr(backbone, "stages", ())
            inner = f" (stages.0 to stages.{len(stages) - 1})" if len(stages) else ""
            raise ValueError(f"the backbone has no part {name[:200]!r}; its parts are {', '.join(known)}{inner}")
        modules.append(found)
    return modules


def _expanded(name: str) -> list[str]:
    match = _RANGE.search(name)
    if match is None:
        return [name]
    first, last = int(match[1]), int(match[2])
    if first > last or last - first > 1000:
        raise ValueError(f"{name[:200]!r}: a range goes from a smaller number to a larger one, such as stages.0-2")
    whole = [name[: match.start()] + str(index) + name[match.end() :] for index in range(first, last + 1)]
    return [path for part in whole for path in _expanded(part)]
