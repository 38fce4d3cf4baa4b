"""The table of models that ``facezoo models`` reads instead of building them: ``table.json``, made from the registry.

``python -m facezoo.cli.table`` makes it anew; a test holds it equal to what the registry says.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("table.json")
_DIM = 512  # embedding that the row's counts are of


@dataclass(frozen=True)
class Row:
    """One model, with the face stem if it has one, as costs of its parts.

    Attributes:
        name: the model.
        description: one line.
        params: parameters with an embedding of 512 and no classifier.
        params_per_dim: parameters that one more dimension of the embedding costs.
        macs: multiply-accumulates for one 112×112 image, likewise.
        macs_per_dim: those that one more dimension costs.
        pooled: parameters, multiply-accumulates and width without an embedding layer.
        bent: whether the costs do not grow evenly with the embedding (a low-rank layer): other widths are then counted anew.
    """

    name: str
    description: str
    params: int
    params_per_dim: int
    macs: int
    macs_per_dim: int
    pooled: tuple[int, int, int]
    bent: bool = False

    def cost(self, num_classes: int, embedding_dim: int | None) -> tuple[int, int]:
        """Parameters and multiply-accumulates with a classifier and an embedding (None for no embedding layer)."""
        if self.bent and embedding_dim not in (None, _DIM):
            from facezoo.models import MODELS
            from facezoo.models.factory import count_multiplications, count_parameters

            form = (num_classes, embedding_dim)
            return count_parameters(MODELS[self.name], *form), count_multiplications(MODELS[self.name], *form)
        if embedding_dim is None:
            params, macs, width = self.pooled
        else:
            more, width = embedding_dim - _DIM, embedding_dim
            params, macs = self.params + more * self.params_per_dim, self.macs + more * self.macs_per_dim
        return params + (width + 1) * num_classes, macs + width * num_classes


def read_table() -> list[Row]:
    """The rows of the file, in natural order of their names."""
    rows: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return [Row(**{**row, "pooled": tuple(row["pooled"])}) for row in rows]


def count_row(name: str) -> Row:
    """The row of a registered model, counted."""
    from facezoo.models import MODELS
    from facezoo.models.factory import count_multiplications, count_parameters

    spec = MODELS[name]
    (params, macs), (fewer, cheaper) = (
        (count_parameters(spec, 0, dim), count_multiplications(spec, 0, dim)) for dim in (_DIM, _DIM // 2)
    )
    pooled, pooled_macs = count_parameters(spec, 0, None), count_multiplications(spec, 0, None)
    per_dim = (params - fewer) * 2 // _DIM
    bent = any(count_parameters(spec, 0, dim) != params + (dim - _DIM) * per_dim for dim in (96, 384))
    return Row(
        name,
        MODELS.describe(name),
        params,
        per_dim,
        macs,
        (macs - cheaper) * 2 // _DIM,
        (pooled, pooled_macs, count_parameters(spec, 1, None) - pooled - 1),
        bent,
    )


def write_table(path: Path = FILE) -> None:
    """Count all models of facezoo and write the file, one row a line."""
    from facezoo.files import write_atomic
    from facezoo.models import list_models

    rows = ",\n".join(json.dumps(asdict(count_row(name)), ensure_ascii=False) for name in list_models())
    write_atomic(path, f"[\n{rows}\n]\n")


if __name__ == "__main__":
    write_table()
    print(f"written: {FILE}", file=sys.stderr)
