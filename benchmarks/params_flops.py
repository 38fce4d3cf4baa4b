"""The table of every model: parameters and MACs in both forms. Writes results/params_flops.{json,md}.

python benchmarks/params_flops.py
"""

from __future__ import annotations

from tqdm import tqdm

import facezoo
from common import write_results
from facezoo.models import get_model_spec


def rows() -> list[dict[str, object]]:
    table: list[dict[str, object]] = []
    for name in tqdm(facezoo.list_models(), unit="model"):
        face = facezoo.profile_model(name)
        budget = facezoo.profile_model(name, num_classes=8631)
        row: dict[str, object] = {
            "model": name,
            "face params": face.params,
            "face MACs @112": face.macs,
            "params with 8,631 classes": budget.params,
        }
        if "imagenet" in get_model_spec(name).stems:
            published = {"stem": "imagenet", "embedding_dim": None, "num_classes": 1000}
            row["ImageNet params"] = facezoo.profile_model(name, **published).params
            row["ImageNet MACs @224"] = facezoo.profile_model(name, img_size=224, **published).macs
        table.append(row)
    return table


if __name__ == "__main__":
    write_results(
        "params_flops",
        "Parameters and multiply-accumulates",
        rows(),
        note="Face form: 112×112, 512-d embedding. MACs are those of convolutions and linear layers, exact, for one image.",
    )
