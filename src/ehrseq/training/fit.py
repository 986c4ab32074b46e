"""One training: trainer, callbacks, best weights."""

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Callback, EarlyStopping, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from ehrseq.config.schema import Trainer
from ehrseq.config.targets import more_is_better
from ehrseq.data.batch import SequenceBatch
from ehrseq.data.sampler import ShuffledBatches
from ehrseq.files import read_json, write_json
from ehrseq.training.callbacks import AveragedWeights, EpochMetrics, MetricSink, ProbeBatch
from ehrseq.training.checkpoints import LAST, SIGNALS, AtomicCheckpointIO, Checkpoints
from ehrseq.training.module import SequenceModule
from ehrseq.training.profile import PhaseProfiler, Unprofiled
from ehrseq.training.ranks import ranks, wait_for_others

_FITTED = "fitted.json"
_PREFIX = "model."


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        weights: State of the network in the epoch that is kept, on the CPU.
        epoch: The epoch that is kept, from 1.
        epochs: How many epochs were trained.
        score: The monitored figure in that epoch.
    """

    weights: dict[str, Tensor]
    epoch: int
    epochs: int
    score: float


def fit(
    module: SequenceModule,
    train: DataLoader[SequenceBatch],
    tuning: DataLoader[SequenceBatch],
    config: Trainer,
    folder: Path,
    sink: MetricSink,
    weight_averaging: float | None = None,
    report: Callable[[str], None] | None = None,
) -> Fitted:
    """Train until the monitored figure no longer gets better, and give the best weights; or to the end, and the last.

    What `folder` holds of the same training, killed before its end, is gone on with; the result is the same to the bit
    on a CPU. It is up to the caller that it is the same training.

    Args:
        module: What is trained; its weights are those of the last epoch afterwards.
        train: Shuffled batches.
        tuning: Every tuning sample once.
        config: How long and on what.
        folder: Where the checkpoints go.
        sink: Receives the figures of each epoch; after an interruption, those of the epochs before once more.
        weight_averaging: Decay of an exponential moving average of the weights, which is what is scored and kept.
        report: Prints a line an epoch where there is no terminal for bars.

    Raises:
        TrainingError: If the loss is no longer finite.
        InterruptedBySignalError: After a signal; the checkpoint is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    averaged = None if weight_averaging is None else AveragedWeights(weight_averaging)
    mode: Any = "max" if more_is_better(config.monitor) else "min"
    kept = Checkpoints(
        folder,
        config.monitor,
        "last" if config.keep == "last" else mode,
        config.checkpoint_minutes,
        cast(ShuffledBatches, train.sampler),
        lambda module: averaged.state() if averaged else module.state_dict(),
    )
    bars = sys.stderr.isatty() if config.progress == "auto" else config.progress
    figures = EpochMetrics(sink, None if bars else report)
    if (folder / _FITTED).is_file():
        fitted = _finished(folder, kept, figures)
        wait_for_others()
        return fitted
    callbacks: list[Callback] = [kept, figures, ProbeBatch(), *([averaged] if averaged else [])]
    if config.patience is not None and config.keep == "best":
        callbacks.append(EarlyStopping(config.monitor, mode=mode, patience=config.patience, check_finite=False))
    if bars:
        callbacks.append(RichProgressBar(leave=False))
    if config.compile:
        module.model.compile()
    profiler = PhaseProfiler() if config.profile else None
    # Deterministic mode would write NaN into all memory that is asked for, so that reading it shows: 5% of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=_strategy(config),
            precision=config.precision,
            max_epochs=config.max_epochs,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.gradient_clip,
            deterministic=config.deterministic,
            callbacks=callbacks,
            profiler=profiler or Unprofiled(),
            plugins=[AtomicCheckpointIO(), *([TorchElasticEnvironment()] if ranks() > 1 else [])],
            logger=False,
            enable_progress_bar=bars,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        last = folder / LAST
        if report and last.is_file():
            report(f"train: goes on from {last}")
        handlers = [(number, signal.getsignal(number)) for number in SIGNALS]
        try:
            trainer.fit(module, train, tuning, ckpt_path=last if last.is_file() else None, weights_only=True)
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers:
                    signal.signal(number, handler)
    if profiler and report:
        for line in profiler.table(len(train)):
            report(line)
    if trainer.is_global_zero:
        facts = {"epoch": kept.best_epoch, "score": kept.best_score, "epochs": trainer.current_epoch}
        write_json(folder / _FITTED, {**facts, "history": figures.history})
    wait_for_others()
    fitted = _fitted(kept, trainer.current_epoch)
    # The first takes the files away soon.
    wait_for_others()
    return fitted


def _finished(folder: Path, kept: Checkpoints, figures: EpochMetrics) -> Fitted:
    """What was trained to its end before."""
    facts = read_json(folder / _FITTED)
    kept.best_epoch, kept.best_score = facts["epoch"], facts["score"]
    figures.load_state_dict(facts)
    return _fitted(kept, facts["epochs"])


def _fitted(kept: Checkpoints, epochs: int) -> Fitted:
    weights = {
        name.removeprefix(_PREFIX): value for name, value in kept.best_weights().items() if name.startswith(_PREFIX)
    }
    return Fitted(weights, kept.best_epoch, epochs, kept.best_score)


def _strategy(config: Trainer) -> str:
    """How several processes train together; each has the whole network, or with `fsdp` a part of it."""
    return config.strategy if config.processes > 1 else "auto"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's own notes (devices, tips, advertisements), which say nothing about the experiment."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
        for message in (
            ".*LeafSpec.*",
            # Workers do not pay here (see conf/config.yaml), and short epochs are no mistake.
            ".*does not have many workers.*",
            ".*number of training batches.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            # Ours is: the sampler is put to its place.
            ".*dataloader is not resumable.*",
            # What is logged is the same in all processes already.
            ".*sync_dist=True.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
