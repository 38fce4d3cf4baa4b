"""The reference trainer: one file that reads top to bottom.

A run is a function of its :class:`~facezoo.training.config.TrainConfig`. Order, augmentation, dropout and mixing of an update are
functions of (seed, update, rank), so there is no random state to save, and a run that was killed goes on as if it had not been.
Under torchrun the gradients of backbone and head are averaged over the ranks; rank 0 alone evaluates, on the whole data, so that
the figures do not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facezoo.margins import MarginHead
from facezoo.ops import NonFiniteError
from facezoo.training import parts
from facezoo.training.checkpoint import NetworkRecord, TrainState, load_training_checkpoint, save_training_checkpoint
from facezoo.training.config import TrainConfig
from facezoo.training.distributed import join_distributed
from facezoo.training.ema import WeightAverage
from facezoo.training.errors import NonFiniteLossError, TrainingInterrupted, data_error, is_data_error
from facezoo.training.loading import Batch, TrainingBatches
from facezoo.training.logs import RunLogs
from facezoo.training.optimizers import (
    create_optimizer,
    parameter_groups,
    require_all_parameters,
    require_gradients,
    set_learning_rate,
)
from facezoo.training.result import TrainResult, describe_epoch, describe_start
from facezoo.training.run_folder import open_run_folder
from facezoo.training.schedules import linear_ramp, warmup_cosine
from facezoo.training.sharding import clip_gradients, sharded_names, whole_head
from facezoo.training.signals import StopRequest
from facezoo.training.validation import autocast_dtype, possible_metric, selection_value, validate


class Trainer:
    """Trains one network as a :class:`TrainConfig` says.

    Args:
        config: the settings.
        data: a :class:`facezoo.data.FaceData` instead of what ``config.data`` names.
        model: a backbone instead of ``config.model``: images -> embeddings, with ``embedding_dim``, ``preprocessing``, ``config``.
        head: a margin head instead of ``config.margin``. It must be what the config describes for checkpoints to rebuild it.

    Raises:
        ValueError: settings that do not fit each other or the data.
    """

    def __init__(
        self, config: TrainConfig, *, data: Any = None, model: nn.Module | None = None, head: nn.Module | None = None
    ) -> None:
        self.config = config
        self.dist = join_distributed(config.device)
        self.device = self.dist.device

        # Swappable parts
        backbone: Any = parts.build_model(config) if model is None else model
        self.data = parts.build_data(config, backbone.preprocessing) if data is None else data
        parts.require_labels(self.data.train.samples, self.data.classes, config.data)
        num_classes = len(self.data.classes)
        head_record = parts.head_record(config, backbone.embedding_dim, num_classes)
        head = parts.build_head(config, head_record, self.dist) if head is None else head
        self.objective = parts.build_objective(config, backbone, head, num_classes)
        parts.require_budget(self.objective, config.max_params)
        self.record = NetworkRecord(
            dict(backbone.config), head_record, backbone.preprocessing.to_dict(), tuple(self.data.classes), {}
        )

        # Run-time
        self._check_machine()
        parts.initialize(config, backbone, head, self.device)
        parts.tell_class_counts(head, self.data.train.samples, num_classes)
        self.objective.to(self.device)
        if config.channels_last:
            self.objective.to(memory_format=torch.channels_last)
        if config.grad_checkpointing:
            backbone.set_grad_checkpointing(True)
        if config.compile:
            backbone.compile()
        others = nn.ModuleList(part for part in (self.objective.head, self.objective.joint) if part is not None)
        groups = parameter_groups(
            backbone,
            others,
            weight_decay=config.weight_decay,
            head_weight_decay=parts.head_weight_decay(config),
            head_lr_scale=config.head_lr_scale,
        )
        require_all_parameters(groups, self.objective)
        self.optimizer = create_optimizer(config, groups, self.device)
        self.average = WeightAverage(self.objective, config.ema_decay) if config.ema_decay else None
        self.scaler = torch.amp.GradScaler("cuda") if config.amp == "fp16" else None
        self.network: nn.Module = self.objective
        if self.dist.world_size > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                self.objective, sharded_names(self.objective)
            )
            self.network = DistributedDataParallel(self.objective, device_ids=devices)
        self.best_metric = possible_metric(config.best_metric, self.data)
        self.batches = TrainingBatches(self.data.train, config, self.dist)
        self.total_updates = self.batches.updates_per_epoch * config.epochs

        # State: all of it is in the checkpoint
        self.state = TrainState()

    # -- the run --------------------------------------------------------------------------------------------------------------

    def fit(self, *, resume: bool = False, overwrite: bool = False) -> TrainResult:
        """Train until ``config.epochs`` (or ``config.stop_after``).

        Args:
            resume: go on where the run in ``config.out`` was; begins it if there is none.
            overwrite: replace the run in ``config.out``.

        Returns:
            Where the checkpoints are and how good they are.

        Raises:
            FileExistsError: ``config.out`` holds a run and neither ``resume`` nor ``overwrite`` is given.
            CheckpointError: the run to resume is another one.
            NonFiniteLossError: the loss is NaN or infinite; ``last`` is intact.
            TrainingDataError: an image could not be read; ``last`` has everything up to that update.
            TrainingInterrupted: SIGTERM or Ctrl-C; ``last`` has everything up to that update.
        """
        config = self.config
        self.folder = Path(config.out)
        self.last, self.best = self.folder / "last.safetensors", self.folder / "best.safetensors"
        found = open_run_folder(self.dist, config, resume=resume, overwrite=overwrite)
        if found:
            self._load_last()
        if self.dist.is_main and config.progress:
            print(describe_start(self), flush=True)
        self.logs = RunLogs(self.folder, tensorboard=config.tensorboard) if self.dist.is_main else None
        if self.logs is not None:
            self.logs.truncate(updates=self.state.updates, epochs=self.state.epoch)
        self._pending: list[Tensor] = []
        self._last_save = self._window_start = time.monotonic()
        self._window_updates = 0
        with StopRequest() as self._stop:
            try:
                while self.state.epoch < config.epochs and not self._stopping:
                    if self._train_epoch():
                        self._finish_epoch()
                if self._stop.signal:
                    raise TrainingInterrupted(self._stop.signal, self.last, config.out)
            finally:
                self.batches.close()
                if self.logs is not None:
                    self.logs.close()
                self.dist.leave()
        return self._result()

    # -- one epoch ------------------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch, or to where the run is asked to stop. Returns whether the epoch is complete."""
        state = self.state
        self.objective.train()
        updates = self.batches.updates(state.epoch, state.position)
        with self._progress() as bar:
            while state.position < self.batches.images_per_epoch and not self._stopping:
                started = time.monotonic()
                try:
                    loss = self._update(self._fetch(updates))
                except NonFiniteError as error:
                    raise self._non_finite(error) from error
                self._pending.append(loss)
                state.updates += 1
                state.position += min(self.config.batch_size, self.batches.images_per_epoch - state.position)
                self._window_updates += 1
                state.seconds += time.monotonic() - started
                self._after_update(bar)
            self._look()
            if state.position < self.batches.images_per_epoch:
                self._save_last()
                return False
        return True

    def _finish_epoch(self) -> None:
        """Evaluate, log, and save ``best`` (if it is) and ``last``."""
        state, config = self.state, self.config
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "updates": state.updates,
            "train_loss": state.loss_sum / max(state.loss_count, 1),
            "train_accuracy": state.correct / state.seen if state.seen else "",
            "lr": self._learning_rate(state.updates - 1),
            "images_per_second": round(self.batches.images_per_epoch / max(state.seconds, 1e-9), 1),
            "train_seconds": round(state.seconds, 2),
        }
        figures: dict[str, float] = {}
        due = (state.epoch + 1) % config.eval_every == 0 or state.epoch + 1 == config.epochs
        if due:
            started = time.monotonic()
            figures = self.dist.broadcast(self._evaluate())
            row |= {name: figure for name, figure in figures.items() if name != "threshold"}
            row["eval_seconds"] = round(time.monotonic() - started, 2)
        state.epoch, state.position, state.seconds = state.epoch + 1, 0, 0.0
        state.loss_sum, state.loss_count, state.correct, state.seen = 0.0, 0, 0.0, 0.0
        if due:
            value = selection_value(self.best_metric, figures)
            improved = state.best is None or value > state.best or self.best_metric == "last"
            row["best"] = int(improved)
            if improved:
                state.best, state.best_epoch = value, state.epoch
            self.record = replace(self.record, metrics=figures)
            if improved:
                self._save(self.best, with_optimizer=False)
        if self.logs is not None:
            self.logs.epoch(row)
            if config.progress:
                print(describe_epoch(row, config.epochs), flush=True)
        self._save_last()
        self._window_start, self._window_updates = time.monotonic(), 0

    def _evaluate(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        failure: Exception | None = None
        with self.average.applied_to(self.objective) if self.average else nullcontext():
            head = whole_head(self.objective, self.record.head, self.device)
            if self.dist.is_main:
                try:
                    figures = validate(self.objective.model, head, self.data, self.config, self.device)
                except Exception as error:
                    failure = error
        if self.dist.any(failure is not None):
            self._save_last()  # with the epoch trained: a resumed run begins with its evaluation
        if failure is not None:
            if is_data_error(failure):
                raise data_error(failure, self.last, self.config.out) from failure
            raise failure
        return figures

    # -- one update -----------------------------------------------------------------------------------------------------------

    def _update(self, micro_batches: list[Batch]) -> Tensor:
        """One step of the optimizer over ``micro_batches``. Returns the mean loss per image, on the device, unread."""
        config, state = self.config, self.state
        seed = _update_seed(config.seed, state.updates, self.dist.rank)
        torch.manual_seed(seed)
        # How a batch is mixed is the same on all ranks: what multiplies a loss of the whole batch must be, and the number of calls.
        generator = torch.Generator().manual_seed(_update_seed(config.seed, state.updates, 0))
        lr = self._learning_rate(state.updates)
        set_learning_rate(self.optimizer, lr)
        if config.optimizer_in_backward:
            self.objective.head.backward_optimizer.lr = lr * config.head_lr_scale  # type: ignore[union-attr]
        if config.drop_block_rate:
            self.objective.model.set_drop_block_progress(linear_ramp(state.updates, total=self.total_updates))  # type: ignore[operator]
        if self.objective.joint is not None:
            self.objective.joint.set_step(state.updates)
        images_here = sum(len(labels) for _, labels in micro_batches)
        total = torch.zeros((), device=self.device)
        for index, (images, labels) in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with self._no_sync() if not last else nullcontext():
                loss = self._forward(images, labels, generator) * (len(labels) / images_here)
                (self.scaler.scale(loss) if self.scaler else loss).backward()
            total += loss.detach()
        if state.updates == 0:
            require_gradients(self.objective)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if config.clip_grad_norm:
            self._grad_norm = clip_gradients(self.objective, config.clip_grad_norm)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.objective, state.updates + 1)
        return total

    def _forward(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        images = images.to(self.device, non_blocking=True, memory_format=memory_format)
        labels = labels.to(self.device, non_blocking=True)
        mixed = None
        if config.mixup_alpha or config.cutmix_alpha:
            from facezoo.data import mix_batch

            mixed = mix_batch(
                images, labels, mixup_alpha=config.mixup_alpha, cutmix_alpha=config.cutmix_alpha, generator=generator
            )
            images = mixed.images
        if isinstance(self.objective.head, MarginHead):
            self.objective.head.set_step(self.state.updates)
        amp = autocast_dtype(config.amp)
        with torch.autocast(self.device.type, dtype=amp) if amp else nullcontext():
            if mixed is None:
                loss, embeddings = self.network(images, labels)
            else:
                loss, embeddings = self.network(images, mixed.labels_a, mixed.labels_b, mixed.lam)
        if (self.state.updates + 1) % config.log_interval == 0:
            self._sample_accuracy(embeddings, labels, mixed)
        return cast(Tensor, loss)

    @torch.no_grad()
    def _sample_accuracy(self, embeddings: Tensor, labels: Tensor, mixed: Any) -> None:
        """Training accuracy on a batch now and then: the margin-free logits cost another product with all class centers."""
        logits = self.objective.head.logits(embeddings)  # type: ignore[operator]
        if mixed is None:
            correct = (logits.argmax(dim=1) == labels).sum()
        else:
            from facezoo.data import mixed_accuracy

            correct = mixed_accuracy(logits, mixed) * len(labels)
        counts = torch.stack([correct.double(), correct.new_tensor(len(labels), dtype=torch.float64)])
        hits, seen = self.dist.sum(counts).tolist()
        self.state.correct += hits
        self.state.seen += seen

    # -- between updates ------------------------------------------------------------------------------------------------------

    def _after_update(self, bar: Any) -> None:
        """Log and save where it is due. Ranks have to agree on it, and talk only every ``log_interval`` updates."""
        config, state = self.config, self.state
        log_due = state.updates % config.log_interval == 0
        if log_due:
            self._look()
            self._log_window(bar)
        bar.update()
        save_due = config.checkpoint_updates > 0 and state.updates % config.checkpoint_updates == 0
        if self.dist.world_size == 1 or log_due:
            self._stop.requested = self.dist.any(self._stop.requested)
            late = config.checkpoint_minutes > 0 and time.monotonic() - self._last_save > 60 * config.checkpoint_minutes
            save_due |= self.dist.broadcast(late)
        if save_due and state.position < self.batches.images_per_epoch:
            self._look()
            self._save_last()

    def _look(self) -> None:
        """Read the losses since the last look – the only place where the host waits for the device – and refuse NaN."""
        if not self._pending:
            return
        state = self.state
        first = state.updates - len(self._pending) + 1
        losses: list[float] = self.dist.mean(torch.stack(self._pending)).tolist()
        self._pending.clear()
        for update, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                lr = self._learning_rate(update - 1)
                raise NonFiniteLossError(loss, update, state.epoch + 1, lr, self.last if self.last.exists() else None)
            state.losses.append(loss)
            state.loss_sum += loss
            state.loss_count += 1
        if self.config.clip_grad_norm:
            state.grad_norm = float(self._grad_norm)

    def _non_finite(self, error: NonFiniteError) -> Exception:
        """NaN that a forward pass came upon, as the error that names the update it came from."""
        if self.dist.world_size == 1:  # the other ranks are not here to take part
            self._look()  # an earlier loss that nobody has looked at yet is to blame, if it was not finite
        state, last = self.state, self.last if self.last.exists() else None
        lr = self._learning_rate(state.updates)
        return NonFiniteLossError(math.nan, state.updates + 1, state.epoch + 1, lr, last, found=str(error))

    def _log_window(self, bar: Any) -> None:
        state, losses = self.state, self.state.losses
        lr = self._learning_rate(state.updates - 1)
        now = time.monotonic()
        speed = self._window_updates * self.config.batch_size / max(now - self._window_start, 1e-9)
        row: dict[str, Any] = {
            "update": state.updates,
            "epoch": state.epoch + 1,
            "loss": sum(losses) / len(losses),
            "lr": lr,
        }
        row["images_per_second"] = round(speed, 1)
        if self.config.clip_grad_norm:
            row["grad_norm"] = state.grad_norm
        if self.logs is not None:
            self.logs.step(row)
        bar.set_postfix_str(f"loss {row['loss']:.4f}, lr {lr:.2e}, {speed:.0f} img/s", refresh=False)
        state.losses = []
        self._window_start, self._window_updates = now, 0

    # -- helpers --------------------------------------------------------------------------------------------------------------

    def _learning_rate(self, update: int) -> float:
        config = self.config
        warmup = round(config.warmup_epochs * self.batches.updates_per_epoch)
        return config.lr * warmup_cosine(update, total=self.total_updates, warmup=warmup, final=config.final_lr)

    def _fetch(self, updates: Iterator[list[Batch]]) -> list[Batch]:
        """The next update's micro-batches; if one cannot be read, save and say which file it was."""
        try:
            return next(updates)
        except Exception as error:
            if self.dist.world_size == 1:  # alone among ranks, this one cannot tell the others to save
                self._look()
                self._save_last()
            raise data_error(error, self.last, self.config.out) from error

    def _no_sync(self) -> Any:
        return self.network.no_sync() if isinstance(self.network, DistributedDataParallel) else nullcontext()

    @property
    def _stopping(self) -> bool:
        return self._stop.requested or 0 < self.config.stop_after <= self.state.updates

    def _save_last(self) -> None:
        self._save(self.last, with_optimizer=True)
        self._last_save = time.monotonic()

    def _save(self, path: Path, *, with_optimizer: bool) -> None:
        if not (self.dist.is_main or sharded_names(self.objective)):
            return
        save_training_checkpoint(
            path,
            objective=self.objective,
            record=self.record,
            config=self.config,
            state=self.state,
            average=self.average,
            optimizer=self.optimizer if with_optimizer else None,
            scaler_state=self.scaler.state_dict() if self.scaler else None,
        )

    def _load_last(self) -> None:
        self.state, self.record = load_training_checkpoint(
            self.last,
            objective=self.objective,
            config=self.config,
            record=self.record,
            optimizer=self.optimizer,
            average=self.average,
            scaler=self.scaler,
        )

    def _progress(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.batches.updates_per_epoch,
            initial=self.state.position // self.config.batch_size,
            desc=f"epoch {self.state.epoch + 1}/{self.config.epochs}",
            unit="update",
            disable=None if self.config.progress and self.dist.is_main else True,  # None: not into a file or a pipe
            leave=False,
        )

    def _check_machine(self) -> None:
        if self.config.amp == "fp16" and self.device.type != "cuda":
            raise ValueError(
                f"amp='fp16' needs CUDA (its gradients need scaling); on {self.device.type} use amp='bf16' or 'none'"
            )

    def _result(self) -> TrainResult:
        state = self.state
        rows = self.logs.epochs.read() if self.logs is not None else []
        return TrainResult(
            folder=self.folder,
            last=self.last,
            best=self.best if state.best is not None else None,
            epochs=state.epoch,
            updates=state.updates,
            finished=state.epoch >= self.config.epochs,
            best_metric=self.best_metric,
            best_value=state.best,
            best_epoch=state.best_epoch,
            history=tuple({name: float(value) for name, value in row.items() if value != ""} for row in rows),
        )


def _update_seed(seed: int, update: int, rank: int) -> int:
    """Seed of the random numbers of one update on one rank: 63 well-mixed bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{update}/{rank}".encode(), digest_size=8).digest(), "big") >> 1
