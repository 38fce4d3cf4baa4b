"""How often 95 % intervals hold the truth: simulated verification data, with and without shared people.

``python benchmarks/coverage.py`` simulates 2,000 data sets per setting (about an hour); ``--sets 50`` tries it out,
``--people 400`` runs the settings of so many people alone, and ``--save`` puts their rows in place of older ones of the same
settings. People differ in how easy they are (a spread of their own) and pairs of people in how alike they are; the truth is the
figure of a very large set. The forms of the intervals were chosen on seeds from 500,000 on; those here begin at 10,000.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from typing import Any

import numpy as np

from common import RESULTS, write_results
from facezoo.evaluation import verification_metrics

FAR, PRIOR = 1e-2, 0.01
SETTINGS = (
    (100, 1_000, 0.7),
    (100, 1_000, 0.0),
    (30, 500, 0.7),
    (100, 300, 0.7),
    (400, 4_000, 0.7),
    (400, 40_000, 0.7),
)
"""People, impostor pairs, spread of the people; five genuine pairs for each person."""


def simulate(
    people: int, images: int, impostors: int, spread: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, people on the left and right: ``images - 1`` genuine pairs of each person, random impostor pairs."""
    rng = np.random.default_rng(seed)
    ease, likeness = rng.normal(0, spread, people), rng.normal(0, spread / 2, people)
    own = np.repeat(np.arange(people), images - 1)
    left = rng.integers(0, people, impostors)
    right = (left + rng.integers(1, people, impostors)) % people
    genuine = 2.5 + ease[own] + rng.normal(0, 1, len(own))
    impostor = likeness[left] + likeness[right] + rng.normal(0, 1, impostors)
    labels = np.arange(len(own) + impostors) < len(own)
    return np.concatenate([genuine, impostor]), labels, np.concatenate([own, left]), np.concatenate([own, right])


def intervals(task: tuple[tuple[int, int, float], int, int, int]) -> dict[tuple[str, str], tuple[float, float]]:
    """The intervals of one data set, by figure and by what is resampled."""
    (people, impostors, spread), bootstrap, number, first = task
    scores, labels, left, right = simulate(people, 6, impostors, spread, seed=first + number)
    names: Any = (left, right, "simulated")
    found = verification_metrics(
        scores, labels, fars=[FAR], priors=[PRIOR], bootstrap=bootstrap, seed=number, people=names
    )
    people_found = found.by_people
    assert people_found is not None
    return {
        ("EER", "pairs"): found.eer_interval,
        ("AUC", "pairs"): found.auc_interval,
        (f"TAR@FAR={FAR:g}", "pairs"): found.tar_at_far_interval[FAR],
        ("minDCF", "pairs"): found.min_dcf_interval[PRIOR],
        ("EER", "people"): people_found.eer,
        ("AUC", "people"): people_found.auc,
        (f"TAR@FAR={FAR:g}", "people"): people_found.tar_at_far[FAR],
        ("minDCF", "people"): people_found.min_dcf[PRIOR],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="data sets per setting")
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--people", type=int, help="only the settings of so many people")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/coverage.md and .json")
    options = parser.parse_args()
    for setting in SETTINGS:
        people, impostors, spread = setting
        if options.people not in (None, people):
            continue
        rows: list[dict[str, Any]] = []
        scores, labels, _, _ = simulate(200_000, 6, 2_000_000, spread, seed=1)
        truth = verification_metrics(scores, labels, fars=[FAR], priors=[PRIOR], bootstrap=0)
        wanted = {
            "EER": truth.eer,
            "AUC": truth.auc,
            f"TAR@FAR={FAR:g}": truth.tar_at_far[FAR],
            "minDCF": truth.min_dcf[PRIOR],
        }
        tasks = [(setting, options.bootstrap, number, options.first_seed) for number in range(options.sets)]
        with multiprocessing.Pool(options.processes) as pool:
            found = pool.map(intervals, tasks, chunksize=20)
        for name, value in wanted.items():
            row: dict[str, Any] = {"people": people, "impostor pairs": impostors, "spread": spread, "figure": name}
            row["truth"] = value
            for kind in ("pairs", "people"):
                held = sum(one[name, kind][0] <= value <= one[name, kind][1] for one in found)
                row[f"% held, over {kind}"] = round(100 * held / options.sets, 1)
            rows.append(row)
            print(row, flush=True)
        if options.save:
            save(
                rows,
                f"{options.sets:,} data sets per setting, {options.bootstrap} resamples each: 95 % is known to one point.",
            )


def save(rows: list[dict[str, Any]], note: str) -> None:
    """Put the rows of a setting in the place of older ones."""
    file = RESULTS / "coverage.json"
    older = json.loads(file.read_text())["rows"] if file.exists() else []
    kept = {
        tuple(row[name] for name in ("people", "impostor pairs", "spread", "figure")): row for row in [*older, *rows]
    }
    order = {setting: number for number, setting in enumerate(SETTINGS)}
    merged = sorted(
        kept.values(), key=lambda row: order.get((row["people"], row["impostor pairs"], row["spread"]), len(order))
    )
    write_results("coverage", "How often 95 % intervals hold the truth", merged, note=note)


if __name__ == "__main__":
    main()
