"""What happens around the training steps: figures handed on, progress shown."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from ehrseq.errors import TooLittleMemoryError, TrainingError, is_out_of_memory
from ehrseq.training.module import SequenceModule

MetricSink = Callable[[Mapping[str, float], int], None]  # (metrics, epoch)


class EpochMetrics(Callback):
    """Hands each epoch's figures to a sink, once, and stops a training that has gone astray.

    Args:
        sink: Receives the metrics and the epoch, from 1.
        report: Prints one line an epoch, where no progress bar does.
    """

    def __init__(self, sink: MetricSink, report: Callable[[str], None] | None = None) -> None:
        self.sink = sink
        self.report = report
        self.history: list[tuple[int, dict[str, float]]] = []
        self._started: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The figures of all epochs so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand on the figures of the epochs before; the sink may know them already."""
        for epoch, metrics in state_dict["history"]:
            self._hand_on(metrics, epoch)

    def _hand_on(self, metrics: dict[str, float], epoch: int) -> None:
        self.history.append((epoch, metrics))
        self.sink(metrics, epoch)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        """Says that training has begun, once the first step is done."""
        if trainer.global_step == 1 and self.report:
            weights = sum(parameter.numel() for parameter in pl_module.parameters())
            self.report(f"train: first step done; {weights:,} weights, {trainer.num_training_batches} steps an epoch")

    def on_train_epoch_start(self, *_: object) -> None:
        """Notes the time."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hands the figures on.

        Raises:
            TrainingError: If the loss is not a finite number.
        """
        assert isinstance(pl_module, SequenceModule)
        metrics = {"train/loss": pl_module.train_loss()}
        watched = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("tuning/")}
        metrics |= dict(sorted(watched.items(), key=lambda item: (item[0] != "tuning/loss", item[0])))
        shown = list(metrics)
        metrics["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        # Of an epoch that was taken up in its middle nobody knows how long it took.
        seconds = None if self._started is None else time.perf_counter() - self._started
        self._started = None
        if seconds is not None:
            metrics["epoch_seconds"] = seconds
        epoch = trainer.current_epoch + 1
        self._hand_on(metrics, epoch)
        if self.report:
            figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)
            self.report(
                f"epoch {epoch:>3}/{trainer.max_epochs}  {figures}" + ("" if seconds is None else f"  {seconds:.1f} s")
            )
        loss = metrics["train/loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"training loss became {loss} in epoch {epoch}; lower optim.optimizer.lr or set trainer.gradient_clip"
            )


class ProbeBatch(Callback):
    """One step on the largest batch before the first, so that too little memory is met at once and not in an hour."""

    def __init__(self) -> None:
        self._tried = False

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Forward and backward, once; nothing of it stays. By now `Checkpoints` listens for signals.

        Raises:
            TooLittleMemoryError: If the memory does not hold it.
        """
        if self._tried:
            return
        self._tried = True
        assert isinstance(pl_module, SequenceModule)
        loader = trainer.train_dataloader
        assert loader is not None
        positions = loader.sampler.largest()
        batch = trainer.strategy.batch_to_device(loader.dataset[positions])
        try:
            with trainer.precision_plugin.train_step_context():
                pl_module.try_step(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise TooLittleMemoryError(
                f"the memory of {pl_module.device} does not hold a batch of {len(batch)} histories of {batch.steps} "
                "steps; take a smaller loader.batch_size or loader.batch_tokens, shorter histories "
                "(representation.max_steps), or trainer.accumulate=2 or more, which trains the same in parts"
            ) from error


class AveragedWeights(WeightAveraging):
    """Keeps an exponential moving average of the weights, which is scored and kept in place of the last ones.

    The average is corrected for its beginning, as Adam's are (Kingma and Ba 2015): after n steps the weights of step k
    count decay^(n - k), and those counts are made to sum to one, so that a short training is not held back by the
    weights it started from.

    Args:
        decay: Of what came before, a step.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
            share = (1 - decay) / (1 - decay ** (int(steps) + 1))
            torch._foreach_lerp_(averaged, current, share)

        super().__init__(use_buffers=False, multi_avg_fn=torch.no_grad()(average))

    def state(self) -> dict[str, Tensor]:
        """The averaged weights, by their names in the module."""
        assert self._average_model is not None
        weights: dict[str, Tensor] = self._average_model.module.state_dict()
        return weights
