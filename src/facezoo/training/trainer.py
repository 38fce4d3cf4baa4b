"""The reference trainer: one file that reads top to bottom: build, loop, update, evaluate, save.

A run is determined by its :class:`~facezoo.training.config.TrainConfig`. Order, augmentation, dropout and mixing of an update
depend only on (seed, update, rank). So there is no random state to save, and a resumed run equals an uninterrupted one. With
several processes the gradients of backbone and head are averaged, and the evaluation is shared out: whole batches in order, with
the same weights, so the figures do not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from facezoo.margins import MarginHead
from facezoo.ops import NonFiniteError
from facezoo.training import parts, sharding, validation, wccn
from facezoo.training.callbacks import Callback, RunStart
from facezoo.training.checkpoint import TrainState, load_training_checkpoint, save_training_checkpoint
from facezoo.training.config import TrainConfig
from facezoo.training.datasets import require_images, run_data
from facezoo.training.distributed import Distributed, current_process
from facezoo.training.ema import recalibrate
from facezoo.training.errors import NonFiniteLossError, TrainingInterrupted, data_error, is_data_error
from facezoo.training.freezing import Freezing
from facezoo.training.loading import Batch, TrainingBatches
from facezoo.training.loggers import LOGGERS, CsvFiles
from facezoo.training.machine import check_precision, checkpoint_bytes
from facezoo.training.optimizers import require_gradients
from facezoo.training.result import TrainResult, describe_epoch, describe_start, epoch_row, progress_bar, step_row
from facezoo.training.run_folder import open_run_folder
from facezoo.training.schedules import At, factors_of_epoch, find_schedule, linear_ramp, same_so_far
from facezoo.training.sharded_files import newest_checkpoint, require_sharded_files
from facezoo.training.signals import StopRequest
from facezoo.training.starting import initialize
from facezoo.weights import CheckpointError
from facezoo.weights.run_format import NetworkRecord


class Trainer:
    """Trains one network with the settings of a :class:`TrainConfig`.

    Args:
        config: the settings.
        data: a map-style dataset of (image, label), or a :class:`facezoo.data.FaceData`, in place of the setting ``data``.
        model: a backbone in place of the setting ``model``, with ``embedding_dim``, ``preprocessing`` and ``config``.
        head: a margin head in place of the setting ``margin``; checkpoints rebuild it from the config, so it must match that.
        callbacks: called with every row of figures, on rank 0, after the config's loggers.
        process: rank and world size, from :func:`~facezoo.training.distributed.join_distributed`; None uses the existing process
            group, if there is one.

    Raises:
        ValueError: settings contradict each other or do not match the data.
        CheckpointError: ``init_checkpoint`` does not match the network.
    """

    # -- build ----------------------------------------------------------------------------------------------------------------

    def __init__(
        self,
        config: TrainConfig,
        *,
        data: object = None,
        model: nn.Module | None = None,
        head: nn.Module | None = None,
        callbacks: Sequence[Callback] = (),
        process: Distributed | None = None,
    ) -> None:
        self.config = config = config.with_whole_paths()
        self.dist = current_process(config.machine.device) if process is None else process
        self.device = self.dist.device
        check_precision(config.machine.amp, self.device)
        if config.output.checkpoint_format == "sharded":
            require_sharded_files()
        backbone: Any = parts.build_model(config) if model is None else model
        self.data = parts.build_data(config, backbone.preprocessing) if data is None else run_data(data)
        num_classes = len(self.data.classes)
        head_record = parts.head_record(config, backbone.embedding_dim, num_classes)
        head = parts.build_head(config, head_record, self.dist) if head is None else head
        self.teacher = parts.find_teacher(config, self.data, backbone.preprocessing, self.dist)
        table = None if self.teacher is None else self.teacher.embeddings
        self.objective = parts.build_objective(config, backbone, head, self.data, table)
        parts.require_budget(self.objective, config.model.max_params)
        self.record = NetworkRecord(
            dict(backbone.config), head_record, backbone.preprocessing.to_dict(), self.data.classes, {}
        )
        self._fingerprint = self.data.fingerprint() | ({} if self.teacher is None else self.teacher.fingerprint())
        self.best_metric = validation.possible_metric(config.output.best_metric, self.data)
        self.batches = TrainingBatches(self.data.train, config, self.dist, table)
        if data is not None:
            require_images(self.data.train, backbone.preprocessing)
        parts.require_batches_that_train(backbone, backbone.preprocessing, self.batches.smallest)

        self.folder = Path(config.output.folder)
        self.last = self.folder / ("last.json" if config.output.checkpoint_format == "sharded" else "last.safetensors")
        self.best = self.folder / "best.safetensors"
        self._start_missing: CheckpointError | None = None
        try:
            initialize(config, backbone, head, self.data, self.device)
        except CheckpointError as error:
            if newest_checkpoint(self.folder) is None:
                raise
            self._start_missing = error  # a resumed run does not need it
        parts.tell_class_counts(self.objective, self.data.labels, num_classes)

        parts.place(self.objective, config.machine, self.dist)
        self._build_updates()
        named = ["csv", *(name for name in config.output.loggers if name != "csv")]
        self.callbacks = [LOGGERS[name]() for name in named] + list(callbacks)

        # State. Only self.state is saved in a checkpoint, beside the tensors
        self.state = TrainState(metric=self.best_metric)
        self._pending: list[Tensor] = []
        self._grad_norm: Tensor | None = None
        self._last_save = self._window_start = time.monotonic()
        self._window_updates = 0
        self._stop = StopRequest()
        self._plan_learning_rates()

    def _build_updates(self) -> None:
        """Build what an optimizer step uses: optimizer, schedule, moving average, precision, the network over all ranks."""
        config, own = self.config, self.config.optimization
        self._freezing = Freezing(self.objective.model, config.model.freeze, config.model.unfreeze)
        self.optimizer = parts.build_optimizer(config, self.objective, self.device)
        self._counting = [m for m in self.objective.modules() if isinstance(m, MarginHead) and m.counts_steps]
        self.average = parts.build_average(config, self.objective, self.batches.updates_per_epoch)
        self.scaler = torch.amp.GradScaler("cuda") if config.machine.amp == "fp16" else None
        self._memory_format = torch.channels_last if config.machine.channels_last else torch.contiguous_format
        self._autocast = validation.autocast_dtype(config.machine.amp)
        self.total_updates = self.batches.updates_per_epoch * own.epochs
        self._warmup = round(own.warmup_epochs * self.batches.updates_per_epoch)
        start = At(0, self.total_updates, self._warmup, self.batches.updates_per_epoch, own.final_lr)
        self._schedule = find_schedule(own.schedule, own.schedule_options, start)
        self._freezing.begin_epoch(0)
        self.network = sharding.over_ranks(self.objective, self.dist)

    # -- loop -----------------------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False, overwrite: bool = False) -> TrainResult:
        """Train until ``epochs`` (or ``stop_after``).

        Args:
            resume: resume the run in ``out``, or start it if there is none.
            overwrite: replace the run in ``out``.

        Returns:
            The paths of the checkpoints and their figures.

        Raises:
            FileExistsError: ``out`` holds a run and neither ``resume`` nor ``overwrite`` is given.
            OSError: another process trains in ``out``, or the disk is too full for the checkpoints.
            CheckpointError: the checkpoint does not belong to this network, data or settings.
            NonFiniteLossError: the loss or the weights are NaN or infinite; ``last`` is intact.
            TrainingDataError, TrainingInterrupted: an unreadable image, or a signal; ``last`` was saved at that update.
        """
        size = checkpoint_bytes(self.objective, self.optimizer, average=self.average is not None)
        found, lock = open_run_folder(self.dist, self.config, resume=resume, overwrite=overwrite, size=size)
        with lock:
            if found:
                self._load_last()
            elif self._start_missing is not None:
                raise self._start_missing
            return self._run()

    def _run(self) -> TrainResult:
        if self.dist.is_main and self.config.output.progress:
            text = describe_start(self.config, self.data, self.objective, self.batches, self.dist, self.state)
            print(text, flush=True)
        start = RunStart(self.folder, self.config.to_dict(), self.state.updates, self.state.epoch)
        self._tell(lambda callback: callback.on_start(start))
        self._last_save = self._window_start = time.monotonic()
        with self._stop:
            try:
                while self.state.epoch < self.config.optimization.epochs and not self._stopping:
                    if self._train_epoch():
                        self._finish_epoch()
                if self._stop.signal:
                    raise TrainingInterrupted(self._stop.signal, self.last, self.config.output.folder)
            finally:
                self.batches.close()
                self._tell(lambda callback: callback.on_end())
        files = self.callbacks[0]
        return TrainResult.of(self.config, self.state, files.history() if isinstance(files, CsvFiles) else ())

    def try_rates(self, rates: Sequence[float]) -> Iterator[float]:
        """Make one optimizer step with each of these learning rates, and yield each loss. Nothing is saved."""
        self.objective.train()
        self._freezing.begin_epoch(0)
        self._rates = list(rates)
        epochs = itertools.chain.from_iterable(self.batches.updates(epoch, 0) for epoch in itertools.count())
        for _, micro_batches in zip(rates, epochs, strict=False):
            yield float(self._update(micro_batches))
            self.state.updates += 1

    def _tell(self, say: Callable[[Callback], None]) -> None:
        """Call ``say`` with every callback, on rank 0."""
        for callback in self.callbacks if self.dist.is_main else ():
            say(callback)

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch, or until the run should stop. Returns whether the epoch is complete."""
        state, batch_size = self.state, self.config.optimization.batch_size
        self.objective.train()
        self._plan_learning_rates()
        if self._freezing.begin_epoch(state.epoch):
            self.network = sharding.over_ranks(self.objective, self.dist)
        updates = self.batches.updates(state.epoch, state.position)
        with progress_bar(self.config, state, total=self.batches.updates_per_epoch, show=self.dist.is_main) as bar:
            while state.position < self.batches.images_per_epoch and not self._stopping:
                started = time.monotonic()
                try:
                    loss = self._update(self._fetch(updates))
                except NonFiniteError as error:
                    if self.dist.world_size == 1:  # the other ranks do not take part
                        self._look()  # an earlier loss, not checked yet, may be the cause
                    raise self._blame(math.nan, state.updates + 1, found=str(error)) from error
                self._pending.append(loss)
                state.updates += 1
                state.position += min(batch_size, self.batches.images_per_epoch - state.position)
                self._window_updates += 1
                state.seconds += time.monotonic() - started
                self._after_update(bar)
            self._look()
            if state.position < self.batches.images_per_epoch:
                self._save_last()
                return False
            if state.losses:
                self._log_window(bar)
        return True

    # -- update ---------------------------------------------------------------------------------------------------------------

    def _update(self, micro_batches: list[Batch]) -> Tensor:
        """One optimizer step over ``micro_batches``. Returns the mean loss per image as a tensor on the device."""
        config, state = self.config.optimization, self.state
        torch.manual_seed(_update_seed(config.seed, state.updates, self.dist.rank))
        # All ranks mix with the same lam: a loss over the batches of all ranks needs one factor and one number of calls.
        generator = torch.Generator().manual_seed(_update_seed(config.seed, state.updates, 0))
        self._move_schedules()
        images_here = sum(len(images) for images, *_ in micro_batches)
        total = torch.zeros((), device=self.device)
        for index, (images, labels, *taught) in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with nullcontext() if last else sharding.without_averaging(self.network, self.objective.model):
                loss = self._forward(images, labels, generator, *taught) * (len(labels) / images_here)
                (self.scaler.scale(loss) if self.scaler else loss).backward()
            total += loss.detach()
        if state.updates == 0:
            require_gradients(self.objective)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if config.clip_grad_norm is not None:
            self._grad_norm = sharding.clip_gradients(self.objective, config.clip_grad_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.objective, state.updates + 1)
        return total

    def _move_schedules(self) -> None:
        """Set the learning rates and everything else that depends on the number of updates."""
        config, updates = self.config.optimization, self.state.updates
        lr = self._learning_rate(updates)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        if config.optimizer_in_backward:
            self.objective.head.backward_optimizer.lr = lr * config.head_lr_scale  # type: ignore[union-attr]
        if self.config.model.drop_block_rate:
            self.objective.model.set_drop_block_progress(linear_ramp(updates, total=self.total_updates))  # type: ignore[operator]
        if self.objective.joint is not None:
            self.objective.joint.set_step(updates)

    def _forward(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, taught: Tensor | None = None
    ) -> Tensor:
        own = self.config.augmentation
        images = images.to(self.device, non_blocking=True, memory_format=self._memory_format)
        labels = labels.to(self.device, non_blocking=True)
        mixed = None
        if own.mixup_alpha or own.cutmix_alpha:
            mixed = parts.mix(own, images, labels, generator)
            images = mixed.images
        for head in self._counting:
            head.set_step(self.state.updates)
        with torch.autocast(self.device.type, dtype=self._autocast) if self._autocast else nullcontext():
            if mixed is None:
                teacher = None if taught is None else taught.to(self.device, non_blocking=True)
                loss, embeddings = self.network(images, labels, teacher=teacher)
            else:
                loss, embeddings = self.network(images, mixed.labels_a, mixed.labels_b, mixed.lam)
        done, batch_size = self.state.position, self.config.optimization.batch_size
        last = done + batch_size >= self.batches.images_per_epoch
        if last or (self.state.updates + 1) % self.config.output.log_interval == 0:
            self._sample_accuracy(embeddings, labels, mixed)
        return cast(Tensor, loss)

    def _sample_accuracy(self, embeddings: Tensor, labels: Tensor, mixed: Any) -> None:
        """Training accuracy on a sample of the batches: logits without margin need another product with all class centers."""
        hits, seen = self.dist.sum(validation.correct_and_seen(self.objective.head, embeddings, labels, mixed)).tolist()
        self.state.correct += hits
        self.state.seen += seen

    def _plan_learning_rates(self) -> None:
        """Compute the learning rate of every update of this epoch."""
        own, per_epoch, epoch = self.config.optimization, self.batches.updates_per_epoch, self.state.epoch
        at = At(epoch * per_epoch, self.total_updates, self._warmup, per_epoch, own.final_lr, self.state.history)
        self._rates = [own.lr * factor for factor in factors_of_epoch(self._schedule, own.schedule_options, at)]

    def _learning_rate(self, update: int) -> float:
        return self._rates[update - self.state.epoch * self.batches.updates_per_epoch]

    def _fetch(self, updates: Iterator[list[Batch]]) -> list[Batch]:
        """The micro-batches of the next update. If an image cannot be read, save a checkpoint and name the file."""
        try:
            return next(updates)
        except Exception as error:
            if self.dist.world_size == 1:  # with several ranks, one alone cannot make the others save
                self._look()
                self._save_last()
            raise data_error(error, self.last, self.config.output.folder) from error

    def _after_update(self, bar: Any) -> None:
        """Log and save when due. The ranks must agree, and communicate only every ``log_interval`` updates."""
        own, state = self.config.output, self.state
        log_due = state.updates % own.log_interval == 0
        if log_due:
            self._look()
            self._log_window(bar)
        bar.update()
        save_due = own.checkpoint_updates is not None and state.updates % own.checkpoint_updates == 0
        late = own.checkpoint_minutes is not None and time.monotonic() - self._last_save > 60 * own.checkpoint_minutes
        if self.dist.world_size == 1:
            save_due |= late
        elif log_due:
            self._stop.requested = self.dist.any(self._stop.requested)
            save_due |= self.dist.broadcast(late)
        if save_due and state.position < self.batches.images_per_epoch:
            self._look()
            self._save_last()

    def _look(self) -> None:
        """Read the losses since the last call, and raise on NaN. Only here does the host wait for the device."""
        if not self._pending:
            return
        state = self.state
        first = state.updates - len(self._pending) + 1
        losses: list[float] = self.dist.mean(torch.stack(self._pending)).tolist()
        self._pending.clear()
        for update, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise self._blame(loss, update)
            state.losses.append(loss)
            state.loss_sum += loss
            state.loss_count += 1
        if self._grad_norm is not None:
            state.grad_norm = float(self._grad_norm)

    def _blame(self, loss: float, update: int, found: str = "") -> NonFiniteLossError:
        """The error that names the update, counted from 1, and its learning rate."""
        last, lr = self.last if self.last.exists() else None, self._learning_rate(update - 1)
        return NonFiniteLossError(loss, update, self.state.epoch + 1, lr, last, found=found)

    def _require_finite_weights(self) -> None:
        """Raise if the last update has made weights NaN or infinite, before they are evaluated or saved."""
        broken = [
            name for name, p in self.objective.named_parameters() if not torch.isfinite(sharding.local_part(p)).all()
        ]
        if self.dist.any(bool(broken)):
            found = f"NaN or infinity in {len(broken)} weights, first of them {broken[0]}" if broken else ""
            raise self._blame(math.nan, self.state.updates, found=found)

    def _log_window(self, bar: Any) -> None:
        state, now = self.state, time.monotonic()
        speed = self._window_updates * self.config.optimization.batch_size / max(now - self._window_start, 1e-9)
        row = step_row(state, self._learning_rate(state.updates - 1), speed, clipped=self._grad_norm is not None)
        self._tell(lambda callback: callback.on_update(row))
        bar.set_postfix_str(f"loss {row['loss']:.4f}, lr {row['lr']:.2e}, {speed:.0f} img/s", refresh=False)
        state.losses = []
        self._window_start, self._window_updates = now, 0

    # -- evaluate -------------------------------------------------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        """Evaluate, log, and save ``best`` (if it is) and ``last``."""
        state, own, epochs = self.state, self.config.output, self.config.optimization.epochs
        self._require_finite_weights()
        if self.config.optimization.wccn is not None and state.epoch + 1 == epochs and not state.normalized:
            failure = wccn.normalize(self.objective, self.data, self.config, self.dist)
            if failure is not None:
                self._save_last()  # the epoch is trained; a resumed run goes on here
                raise failure
            state.normalized = 1
        row = epoch_row(state, self._learning_rate(state.updates - 1), self.batches.images_per_epoch)
        figures: dict[str, float] = {}
        due = (state.epoch + 1) % own.eval_every == 0 or state.epoch + 1 == epochs
        if due:
            started = time.monotonic()
            figures = self.dist.broadcast(self._evaluate())
            row |= {name: figure for name, figure in figures.items() if name != "threshold"}
            row["eval_seconds"] = round(time.monotonic() - started, 2)
        state.epoch, state.position, state.seconds = state.epoch + 1, 0, 0.0
        state.loss_sum, state.loss_count, state.correct, state.seen = 0.0, 0, 0.0, 0.0
        if due:
            self._choose(row, figures)
        self._tell(lambda callback: callback.on_epoch(row))
        if self.dist.is_main and own.progress:
            print(describe_epoch(row, epochs), flush=True)
        self._save_last()
        self._window_start, self._window_updates = time.monotonic(), 0

    def _choose(self, row: dict[str, Any], figures: dict[str, float]) -> None:
        """Record the figures, and save ``best`` if they are the best so far."""
        state, value = self.state, validation.selection_value(self.best_metric, figures)
        state.history.append(value if math.isfinite(value) else -row["train_loss"])
        improved = state.best is None or value > state.best or self.best_metric == "last"
        row["best"] = int(improved)
        self.record = replace(self.record, metrics=figures)
        if improved:
            state.best, state.best_epoch = value, state.epoch
            self._save(self.best, with_optimizer=False)

    def _evaluate(self) -> dict[str, float]:
        with self.average.applied_to(self.objective) if self.average else nullcontext():
            if self.average is not None and self.config.optimization.recalibrate:
                images = self.batches.first(self.state.epoch, self.config.optimization.recalibrate)
                recalibrate(self.objective, self.average, images, self.dist)
            figures, failure = validation.shared_figures(self.objective, self.record, self.data, self.config, self.dist)
        if self.dist.any(failure is not None):
            self._save_last()  # the epoch is trained; a resumed run starts with its evaluation
        if failure is not None:
            if is_data_error(failure):
                raise data_error(failure, self.last, self.config.output.folder) from failure
            raise failure
        return figures

    # -- save -----------------------------------------------------------------------------------------------------------------

    def _save_last(self) -> None:
        self._save(self.last, with_optimizer=True)
        self._last_save = time.monotonic()

    def _save(self, path: Path, *, with_optimizer: bool) -> None:
        save_training_checkpoint(
            path,
            objective=self.objective,
            record=self.record,
            config=self.config,
            state=self.state,
            average=self.average,
            optimizer=self.optimizer if with_optimizer else None,
            scaler_state=self.scaler.state_dict() if self.scaler else None,
            data=self._fingerprint,
        )

    def _load_last(self) -> None:
        self.state, self.record = load_training_checkpoint(
            newest_checkpoint(self.folder) or self.last,
            objective=self.objective,
            config=self.config,
            record=self.record,
            optimizer=self.optimizer,
            average=self.average,
            scaler=self.scaler,
            data=self._fingerprint,
            metric=self.best_metric,
            may_be_longer=self._may_be_longer,
        )

    def _may_be_longer(self, saved: TrainConfig, state: TrainState) -> bool:
        """Whether the run may be resumed with this number of epochs: its learning rates so far would have been the same."""
        own, per_epoch = self.config.optimization, self.batches.updates_per_epoch
        total = saved.optimization.epochs * per_epoch
        at = At(state.updates, total, self._warmup, per_epoch, own.final_lr, state.history)
        same = same_so_far(self._schedule, own.schedule_options, at, total=self.total_updates)
        fixed = self.config.model.drop_block_rate or state.normalized
        return same and own.epochs > state.epoch and not fixed

    @property
    def _stopping(self) -> bool:
        own, state = self.config.output, self.state
        ends = ((own.stop_after, state.updates), (own.stop_epoch, state.epoch))
        return self._stop.requested or any(end is not None and end <= done for end, done in ends)


def _update_seed(seed: int, update: int, rank: int) -> int:
    """Random seed of one update on one rank, 63 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{update}/{rank}".encode(), digest_size=8).digest(), "big") >> 1
