"""How often 95 % intervals hold the truth: simulated verification data, with and without shared people.

``python benchmarks/coverage.py`` simulates 2,000 data sets per setting (an hour or more); ``--sets 50`` tries it out. People differ
in how easy they are (a spread of their own) and pairs of people in how alike they are; the truth is the figure of a very large set.
"""

from __future__ import annotations

import argparse

import numpy as np

from common import write_results
from facezoo.evaluation import verification_metrics

FAR = 1e-2


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="data sets per setting")
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/coverage.md and .json")
    options = parser.parse_args()
    rows = []
    for people, impostors, spread in ((100, 1000, 0.0), (100, 1000, 0.7), (400, 4000, 0.7), (30, 500, 0.7)):
        scores, labels, _, _ = simulate(200_000, 6, 1_000_000, spread, seed=1)
        truth = verification_metrics(scores, labels, fars=[FAR], bootstrap=0)
        wanted = {
            "EER": truth.eer,
            "AUC": truth.auc,
            "TAR@FAR=0.01": truth.tar_at_far[FAR],
            "minDCF": truth.min_dcf[0.01],
        }
        held = {(name, kind): 0 for name in wanted for kind in ("pairs", "people")}
        for number in range(options.sets):
            scores, labels, left, right = simulate(people, 6, impostors, spread, seed=1000 + number)
            names = ([str(p) for p in left], [str(p) for p in right], "simulated")
            found = verification_metrics(
                scores, labels, fars=[FAR], bootstrap=options.bootstrap, seed=number, people=names
            )
            by_people = found.by_people
            assert by_people is not None
            pairs = (
                found.eer_interval,
                found.auc_interval,
                found.tar_at_far_interval[FAR],
                found.min_dcf_interval[0.01],
            )
            clusters = (by_people.eer, by_people.auc, by_people.tar_at_far[FAR], by_people.min_dcf[0.01])
            for kind, intervals in (("pairs", pairs), ("people", clusters)):
                for (name, value), (low, high) in zip(wanted.items(), intervals, strict=True):
                    held[name, kind] += low <= value <= high
        for name, value in wanted.items():
            row = {"people": people, "impostor pairs": impostors, "spread": spread, "figure": name, "truth": value}
            row |= {f"over {kind}": held[name, kind] / options.sets for kind in ("pairs", "people")}
            rows.append(row)
            print(row, flush=True)
    if options.save:
        write_results("coverage", "Coverage of 95 % intervals", rows, note=f"{options.sets} data sets per setting.")


if __name__ == "__main__":
    main()
