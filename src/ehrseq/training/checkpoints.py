"""Checkpoints from which a training goes on as if it had never stopped.

A training is a pure function of its settings: batch order of (seed, epoch), dropout of (seed, epoch, batch, rank). So
a checkpoint, taken between two batches, holds weights, optimiser, schedule, early stopping, the sums of the epoch so
far and its place in the epoch; no state of a generator is needed.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors.torch import load_file, save_file
from torch import Tensor

from ehrseq.data.sampler import ShuffledBatches
from ehrseq.errors import InterruptedBySignalError
from ehrseq.files import atomic_file, sweep_leftovers

LAST = "last.ckpt"
_BEST = "best-{epoch:04d}.safetensors"
_SECONDS = 60.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, flushes and renames: a checkpoint is whole or not there. Reads without code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write."""
        with atomic_file(Path(path)) as staging:
            torch.save(checkpoint, staging)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:  # noqa: ARG002
        """Read tensors and plain types; anything else is refused."""
        loaded: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Remove."""
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Keeps two files: `last.ckpt`, to go on from, and the weights of the best epoch, or of the last.

    A signal (SIGTERM, SIGINT; SIGUSR1 under SLURM, which then puts the job back into its queue) makes one more
    `last.ckpt` before the next batch and ends the training with an
    `InterruptedBySignalError`; a second one ends it at once.

    Args:
        folder: Where they go.
        monitor: The figure that makes an epoch the best.
        mode: Whether it is good when large or when small; last: each epoch is taken to be better than those before.
        minutes: Between two `last.ckpt`; 0: before every batch.
        sampler: The training batches, which are placed when a checkpoint is read.
        weights: The weights to keep of a module, which may be averaged ones.

    Attributes:
        best_epoch: From 1; 0 before the first.
        best_score: The figure then.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        mode: Literal["min", "max", "last"],
        minutes: float,
        sampler: ShuffledBatches,
        weights: Callable[[lightning.LightningModule], Mapping[str, Tensor]],
    ) -> None:
        self.folder = folder
        self.monitor, self.mode = monitor, mode
        self.minutes = minutes
        self.sampler = sampler
        self.weights = weights
        self.best_epoch, self.best_score = 0, float("nan")
        self._at = 0, 0
        self._saved = time.monotonic()
        self._signal: int | None = None

    def best_weights(self) -> dict[str, Tensor]:
        """The weights of the best epoch, on the CPU."""
        return load_file(self.folder / _BEST.format(epoch=self.best_epoch))

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, and the place in the epoch: its number and how many batches are done, from 0."""
        return {"best_epoch": self.best_epoch, "best_score": self.best_score, "at": list(self._at)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, and put the sampler to its place."""
        self.best_epoch, self.best_score = state_dict["best_epoch"], state_dict["best_score"]
        self.sampler.resume(*state_dict["at"])

    def on_train_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """Listen for signals, until `fit` gives them back. Lightning's own handlers would leave without saving."""
        if trainer.is_global_zero:
            sweep_leftovers(self.folder)
        self._saved = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS if "SLURM_JOB_ID" in os.environ else SIGNALS[:2]:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None:
            raise InterruptedBySignalError(number)
        self._signal = number

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002
        batch: object,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Save where it is time, or the last moment.

        Raises:
            InterruptedBySignalError: After a signal.
        """
        if batch_idx % trainer.accumulate_grad_batches:
            return  # gradients that wait for the rest of their batch are not saved
        due = time.monotonic() - self._saved >= self.minutes * _SECONDS
        number = self._signal or 0
        if trainer.world_size > 1:
            number, due = self._agree(trainer, number, due)
        if number or due:
            self._at = trainer.current_epoch, batch_idx
            trainer.save_checkpoint(self.folder / LAST)
            if trainer.is_global_zero:
                self._remove_but(self.best_epoch)
            self._saved = time.monotonic()
        if number:
            _requeue(number)
            place = f"epoch {trainer.current_epoch + 1}, after {batch_idx} of {trainer.num_training_batches} batches"
            raise InterruptedBySignalError(number, f"training stopped in {place}; the same command goes on from there")

    def _agree(self, trainer: lightning.Trainer, number: int, due: bool) -> tuple[int, bool]:
        """The signal that any rank had, and whether it is time for the first: the same in all ranks."""
        mine = torch.tensor([number, int(due and trainer.is_global_zero)], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX)
        number, is_due = mine.tolist()
        return int(number), bool(is_due)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the weights if this epoch is the best so far."""
        score = float(trainer.callback_metrics[self.monitor])
        better = {"max": score > self.best_score, "min": score < self.best_score, "last": True}[self.mode]
        if self.best_epoch and not better:
            return
        self.best_epoch, self.best_score = trainer.current_epoch + 1, score
        weights = {name: value.detach().cpu().contiguous() for name, value in self.weights(pl_module).items()}
        if trainer.is_global_zero:
            # The one before stays until a `last.ckpt` names this one.
            with atomic_file(self.folder / _BEST.format(epoch=self.best_epoch)) as staging:
                save_file(weights, staging)

    def _remove_but(self, epoch: int) -> None:
        for path in self.folder.glob("best-*.safetensors"):
            if path.name != _BEST.format(epoch=epoch):
                path.unlink()


def _requeue(number: int) -> None:
    """Ask SLURM to run this job again, if it was SLURM that warned of the end of its time."""
    job = os.environ.get("SLURM_JOB_ID")
    if number == signal.SIGUSR1 and job and os.environ.get("SLURM_PROCID", "0") == "0":
        subprocess.run(["scontrol", "requeue", job], check=False)
