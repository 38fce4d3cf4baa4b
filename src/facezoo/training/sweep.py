"""Sweeps: the same training with varied settings, as a grid, by random draws, or by successive halving.

A sweep is a folder with one run folder per trial. Running the same command again resumes it: finished trials are kept, the others
are resumed. A failed trial is recorded, and the others continue.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from facezoo.columns import csv_text
from facezoo.evaluation import read_training_log
from facezoo.files import write_atomic
from facezoo.training.config import PLACES, TrainConfig, as_written
from facezoo.training.errors import TrainingInterrupted
from facezoo.training.run_comparison import mean_interval

METRICS = {
    "eer": -1.0,
    "dev_accuracy": 1.0,
    "combined": 1.0,
    "train_loss": -1.0,
    "dev_loss": -1.0,
}  # sign: higher is better
_NOT_VARIED = ("out", "stop_epoch", "stop_after", "data", "device")
METHODS = ("grid", "random", "halving")
Runner = Callable[[TrainConfig, str], None]


@dataclass(frozen=True)
class Axis:
    """The values of one setting: a list, or a range of numbers.

    Attributes:
        name: name on the command line, or ``setting.key`` for a key of a mapping.
        values: the values; empty for a range.
        low: lower end of a range.
        high: upper end.
        log: whether the range is drawn from evenly on a logarithmic scale.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def draw(self, rng: random.Random) -> Any:
        """One value."""
        if self.values:
            return rng.choice(self.values)
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


@dataclass(frozen=True)
class SweepPlan:
    """The plan of a sweep, saved in ``sweep.json``. A sweep can only be resumed with the same plan.

    Attributes:
        base: settings that all trials share.
        axes: what varies.
        method: ``grid``, ``random`` or ``halving`` (random draws; only the best continue to the end).
        trials: number of random draws; ignored for a grid.
        seeds: number of runs per trial, with consecutive seeds.
        metric: metric that ranks the trials, after the last epoch: a key of :data:`METRICS`.
        reduction: ``halving``: factor by which, from rung to rung, the number of trials falls and the number of epochs grows.
        seed: seed of the draws.
    """

    base: TrainConfig
    axes: tuple[Axis, ...]
    method: str = "grid"
    trials: int = 10
    seeds: int = 1
    metric: str = "eer"
    reduction: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.axes:
            raise ValueError("a sweep needs a setting that varies, such as lr=0.05,0.1")
        for name, value, known in (("method", self.method, METHODS), ("metric", self.metric, METRICS)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {value[:80]!r}")
        for name, number, least in (
            ("trials", self.trials, 1),
            ("seeds", self.seeds, 1),
            ("reduction", self.reduction, 2),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}; got {number}")
        for axis in self.axes:
            if axis.name in _NOT_VARIED or (axis.name == "epochs" and self.method == "halving"):
                raise ValueError(f"{axis.name} cannot vary in a sweep by {self.method}, which sets it itself")
            if axis.name.split(".")[0] not in PLACES:
                self.base.replace(**{axis.name.split(".")[0]: None})  # raises, with a suggestion
            if self.method == "grid" and not axis.values:
                raise ValueError(f"a grid needs values for {axis.name}, not a range; use --method random")
        for point in self.points()[:1]:
            self.config(point)

    def points(self) -> list[dict[str, Any]]:
        """The settings of each trial: setting -> value."""
        names = [axis.name for axis in self.axes]
        if self.method == "grid":
            return [
                dict(zip(names, values, strict=True)) for values in itertools.product(*(a.values for a in self.axes))
            ]
        rng = random.Random(self.seed)
        return [{axis.name: axis.draw(rng) for axis in self.axes} for _ in range(self.trials)]

    def config(self, point: Mapping[str, Any]) -> TrainConfig:
        """The settings of a trial."""
        options: dict[str, Any] = {}
        for name, value in point.items():
            option, _, key = name.partition(".")
            if key:
                before = options.get(option, self.base.option(option))
                if not isinstance(before, Mapping):
                    raise ValueError(f"{option} is not a mapping, so {name} means nothing")
                value = {**before, key: value}
            options[option] = value if key else as_written(option, value)
        return self.base.replace(**options)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that identify a plan: paths are absolute, settings of the machine are left out."""
        plain = {name: getattr(self, name) for name in ("method", "trials", "seeds", "metric", "reduction", "seed")}
        base = self.base.with_whole_paths().to_dict()
        return {**plain, "axes": [axis.__dict__ for axis in self.axes], "base": {**base, "machine": {}, "output": {}}}

    def rungs(self) -> list[int]:
        """Numbers of epochs after which the trials are compared; the last is the full length."""
        epochs = self.base.optimization.epochs
        if self.method != "halving":
            return [epochs]
        count = max(1, math.floor(math.log(len(self.points())) / math.log(self.reduction) + 1e-9) + 1)
        steps = {max(1, math.ceil(epochs / self.reduction**power)) for power in range(count)}
        return sorted(steps)


@dataclass(frozen=True)
class Trial:
    """A trial and its results.

    Attributes:
        number: from 0.
        point: its settings.
        folder: its folder.
        epochs: epochs completed by all of its runs.
        values: the metric after the last epoch of each run.
        problem: why it failed; empty if it did not fail.
    """

    number: int
    point: Mapping[str, Any]
    folder: Path
    epochs: int = 0
    values: tuple[float, ...] = ()
    problem: str = ""


def parse_axis(text: str) -> Axis:
    """``lr=0.05,0.1``, ``lr=0.01..0.3`` (a range), ``lr=0.01..0.3:log``, ``margin_options.margin=0.2,0.3``, ``optimizer=sgd,muon``.

    Raises:
        ValueError: the text has none of these forms.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError(f"--vary takes NAME=VALUE,VALUE or NAME=LOW..HIGH; got {text[:80]!r}")
    if ".." in value:
        ends, _, scale = value.partition(":")
        try:
            low, high = (float(end) for end in ends.split(".."))
        except ValueError:
            raise ValueError(f"--vary {name[:80]}: a range is LOW..HIGH; got {value[:80]!r}") from None
        if not low < high or scale not in ("", "log") or (scale and low <= 0):
            raise ValueError(f"--vary {name[:80]}: a range goes up, one with :log from above 0; got {value[:80]!r}")
        return Axis(name, low=low, high=high, log=scale == "log")
    return Axis(name, tuple(_word(part) for part in value.split(",")))


def run_sweep(
    plan: SweepPlan,
    out: str | Path,
    *,
    devices: Sequence[str] = (),
    imports: Sequence[str] = (),
    run: Runner | None = None,
) -> list[Trial]:
    """Run all trials, and write ``sweep.csv`` and ``sweep.html``.

    Args:
        plan: the plan.
        out: the folder of the sweep.
        devices: devices, each of which runs one trial at a time in a separate process; with at most one device, the trials run in
            this process, one after the other.
        imports: modules that these processes import first.
        run: function to train one run on a device, in place of the default.

    Returns:
        The trials, best first, failed ones last.

    Raises:
        ValueError: ``out`` holds another sweep, or the metric was measured for no trial.
        TrainingInterrupted: a signal stopped a run; the same call goes on.
    """
    root = Path(out)
    content = json.dumps(plan.to_dict(), indent=2) + "\n"
    spec = root / "sweep.json"
    if spec.exists() and json.loads(spec.read_text(encoding="utf-8")) != json.loads(content):
        raise ValueError(f"{root} holds another sweep: give the same settings to go on with it, or another --out")
    write_atomic(spec, content)
    places = list(devices) or [plan.base.machine.device]
    work = run or (_in_a_process(imports) if len(places) > 1 else _here)
    trials = [Trial(number, point, root / f"trial-{number:03d}") for number, point in enumerate(plan.points())]
    lost: list[Trial] = []
    for epochs in plan.rungs():
        trials = _train_all(plan, trials, epochs, places, work)
        _require_values(plan, trials)
        trials = _ranked(plan, trials)
        if epochs < plan.rungs()[-1]:
            kept = max(1, len(trials) // plan.reduction)
            trials, lost = trials[:kept], [*trials[kept:], *lost]
        write_table(plan, root, [*trials, *lost])
    return [*trials, *lost]


def _require_values(plan: SweepPlan, trials: Sequence[Trial]) -> None:
    """Raises ValueError if the trials cannot be ranked at all."""
    trained = [trial for trial in trials if not trial.problem]
    if trained and not any(math.isfinite(value) for trial in trained for value in trial.values):
        raise ValueError(
            f"no trial has a value of {plan.metric}: the data cannot give it, or it is not measured in these epochs; choose "
            f"another --metric ({', '.join(METRICS)}), or set eval_every=1"
        )


def _train_all(
    plan: SweepPlan, trials: Sequence[Trial], epochs: int, places: Sequence[str], work: Runner
) -> list[Trial]:
    """Train all trials up to an epoch, one at a time on each device."""
    free: SimpleQueue[str] = SimpleQueue()
    for place in places:
        free.put(place)
    if len(places) == 1:
        return [_to_epoch(plan, trial, epochs, free, work) for trial in trials]
    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(lambda trial: _to_epoch(plan, trial, epochs, free, work), trials))


def _to_epoch(plan: SweepPlan, trial: Trial, epochs: int, free: SimpleQueue[str], work: Runner) -> Trial:
    """Train the runs of a trial up to an epoch, and read their results."""
    values, done = [], []
    for seed in range(plan.seeds):
        folder = trial.folder if plan.seeds == 1 else trial.folder / f"seed{seed}"
        device = free.get()
        try:
            config = plan.config(trial.point)
            config = config.replace(seed=config.optimization.seed + seed, out=str(folder))
            if plan.method != "halving":  # the number of epochs may vary
                epochs = config.optimization.epochs
            if _epochs_done(folder) < epochs:
                work(replace(config, output=replace(config.output, stop_epoch=epochs)), device)
        except TrainingInterrupted:
            raise  # the whole sweep was asked to stop
        except Exception as error:
            return replace(trial, problem=f"{type(error).__name__}: {str(error)[:200]}")
        finally:
            free.put(device)
        done.append(_epochs_done(folder))
        values.append(_value_after(folder, plan.metric, epochs))
    return replace(trial, epochs=min(done), values=tuple(values))


def _value_after(folder: Path, metric: str, epochs: int) -> float:
    """The last value that was measured up to this epoch; trials that went on are compared with those that did not."""
    log = read_training_log(folder / "epochs.csv")
    rows = zip(log.get("epoch", []), log.get(metric, []), strict=False)
    return next((value for epoch, value in reversed(list(rows)) if epoch <= epochs and math.isfinite(value)), math.nan)


def _here(config: TrainConfig, device: str) -> None:
    from facezoo.training.trainer import Trainer

    Trainer(config.replace(device=device, progress=False)).fit(resume=True)


def _in_a_process(imports: Sequence[str]) -> Runner:
    def run(config: TrainConfig, device: str) -> None:
        folder = Path(config.output.folder)
        config.replace(device=device, progress=False).save(folder / "sweep_settings.json")
        command = [sys.executable, "-m", "facezoo", *(word for name in imports for word in ("--import", name)), "train"]
        command += ["--config", str(folder / "sweep_settings.json"), "--resume", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
            )

    return run


def _epochs_done(folder: Path) -> int:
    path = folder / "epochs.csv"
    epochs = read_training_log(path).get("epoch", []) if path.exists() else []
    return int(epochs[-1]) if epochs else 0


def _ranked(plan: SweepPlan, trials: Sequence[Trial]) -> list[Trial]:
    """Best first; trials without a value last."""

    def key(trial: Trial) -> tuple[bool, float]:
        mean = mean_interval(trial.values)[0] if trial.values else math.nan
        return (not math.isfinite(mean), -METRICS[plan.metric] * mean if math.isfinite(mean) else 0.0)

    return sorted(trials, key=key)


def write_table(plan: SweepPlan, root: Path, trials: Sequence[Trial]) -> None:
    """Write ``sweep.csv`` and ``sweep.html``, with a plot if matplotlib is installed."""
    names = [axis.name for axis in plan.axes]
    rows = []
    for trial in trials:
        mean, half = mean_interval(trial.values) if trial.values else (math.nan, math.nan)
        figures = ["" if math.isnan(value) else f"{value:.6g}" for value in (mean, half)]
        shown = [f"{v:.6g}" if isinstance(v, float) else str(v) for v in (trial.point[name] for name in names)]
        rows.append([trial.folder.name, *shown, str(trial.epochs), str(len(trial.values)), *figures, trial.problem])
    header = ["trial", *names, "epochs", "seeds", plan.metric, "half of the 95 % interval", "problem"]
    write_atomic(root / "sweep.csv", csv_text([header, *rows]))
    _write_page(plan, root, trials, header, rows)


def _write_page(plan: SweepPlan, root: Path, trials: Sequence[Trial], header: list[str], rows: list[list[str]]) -> None:
    from facezoo.evaluation.page import Heading, Sheet, Table, Text
    from facezoo.evaluation.plots import PlotUnavailableError, plot_trials

    title = f"Sweep {root.resolve().name}: {plan.method}, {len(trials)} trials, by {plan.metric}"
    sheet = Sheet([Heading(1, title), Table(tuple(header), tuple(tuple(row) for row in rows))])
    good = [trial for trial in trials if trial.values and math.isfinite(sum(trial.values))]
    try:
        if good:
            figures = [mean_interval(trial.values) for trial in good]
            figure = plot_trials(
                {axis.name: [t.point[axis.name] for t in good] for axis in plan.axes}, figures, plan.metric
            )
            caption = f"{plan.metric} after the last epoch of each trial; bars are 95 % intervals over seeds."
            sheet.plot("trials", figure, caption)
    except PlotUnavailableError as error:
        sheet.blocks.append(Text(str(error)))
    write_atomic(root / "sweep.html", sheet.html("facezoo: sweep"))


def _word(text: str) -> Any:
    """Parse a value as JSON; if it is not JSON, return the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
