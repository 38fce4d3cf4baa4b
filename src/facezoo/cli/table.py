"""The table of models that ``facezoo models`` reads instead of building them: ``table.json``, made from the registry.

``python -m facezoo.cli.table`` writes it again; a test compares it with the registry.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("table.json")
_DIM = 512  # embedding dimension of the counts in a row


@dataclass(frozen=True)
class Row:
    """The costs of one model, with the face stem if it has one.

    Attributes:
        name: the model.
        description: one line.
        params: parameters with an embedding of 512 and no classifier.
        params_per_dim: additional parameters per dimension of the embedding.
        macs: multiply-accumulates for one 112×112 image, likewise.
        macs_per_dim: additional multiply-accumulates per dimension.
        pooled: parameters, multiply-accumulates and width without an embedding layer.
        bent: whether the costs are not linear in the dimension (a low-rank layer); other dimensions are then counted.
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
        """Parameters and multiply-accumulates, with a classifier and an embedding (None for no embedding layer)."""
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
    """Count the row of a registered model."""
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
    """Count all facezoo models, and write the file with one row per line."""
    from facezoo.files import write_atomic
    from facezoo.models import list_models

    rows = ",\n".join(json.dumps(asdict(count_row(name)), ensure_ascii=False) for name in list_models())
    write_atomic(path, f"[\n{rows}\n]\n")


if __name__ == "__main__":
    write_table()
    print(f"written: {FILE}", file=sys.stderr)
