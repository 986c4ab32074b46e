"""One training: trainer, callbacks, best weights."""

import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from ehrseq.config.schema import Trainer
from ehrseq.config.targets import more_is_better
from ehrseq.data.batch import SequenceBatch
from ehrseq.training.callbacks import AveragedWeights, EpochMetrics, MetricSink
from ehrseq.training.module import SequenceModule


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        weights: State of the network in its best epoch, on the CPU.
        epoch: The best epoch, from 1.
        epochs: How many epochs were trained.
        score: The monitored figure in the best epoch.
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
    """Train until the monitored figure no longer gets better, and give the best weights.

    Args:
        module: What is trained; its weights are those of the last epoch afterwards.
        train: Shuffled batches.
        tuning: Every tuning sample once.
        config: How long and on what.
        folder: Where the checkpoints `best.ckpt` and `last.ckpt` go.
        sink: Receives the figures of each epoch.
        weight_averaging: Decay of an exponential moving average of the weights, which is what is scored and kept.
        report: Prints a line an epoch where there is no terminal for bars.

    Raises:
        TrainingError: If the loss is no longer finite.
    """
    mode = "max" if more_is_better(config.monitor) else "min"
    best = ModelCheckpoint(
        folder, filename="best", monitor=config.monitor, mode=mode, save_last=True, enable_version_counter=False
    )
    bars = sys.stderr.isatty() if config.progress == "auto" else config.progress
    callbacks: list[Callback] = [best, EpochMetrics(sink, None if bars else report)]
    if config.patience is not None:
        callbacks.append(EarlyStopping(config.monitor, mode=mode, patience=config.patience, check_finite=False))
    if weight_averaging is not None:
        callbacks.append(AveragedWeights(weight_averaging))
    if bars:
        callbacks.append(RichProgressBar(leave=False))
    # Lightning's own notes (which devices there are, tips, advertisements) say nothing about the experiment.
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # Workers do not pay here (see conf/config.yaml), and short epochs are no mistake.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*number of training batches.*")
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
        trainer = lightning.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            precision=config.precision,
            max_epochs=config.max_epochs,
            gradient_clip_val=config.gradient_clip,
            deterministic=config.deterministic,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=bars,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(module, train, tuning)
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    prefix = "model."
    weights = {key[len(prefix) :]: value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)}
    assert best.best_model_score is not None
    return Fitted(weights, int(checkpoint["epoch"]) + 1, trainer.current_epoch, float(best.best_model_score))
