"""The LightningModule: it receives built blocks and holds no knowledge of configs."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ehrseq.data.batch import SequenceBatch, StepBatch
from ehrseq.metrics.streaming import WatchedMetrics
from ehrseq.nn import Prediction, SequenceModel, step_mask
from ehrseq.training.inference import outputs_of
from ehrseq.training.schedule import cosine_with_warmup

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class SequenceModule(lightning.LightningModule):
    """Trains a `SequenceModel`.

    Args:
        model: The network.
        optimizer: Makes the optimiser from the parameters.
        schedule: Learning-rate schedule: `cosine` over all steps, `plateau` on tuning loss, or `constant`.
        warmup_epochs: Linear warm-up before a cosine or constant schedule.
        metrics: What is watched on `tuning` beside the loss.
        replication: Share of the loss that outputs before the last have, which learn the same outcome.
    """

    def __init__(
        self,
        model: SequenceModel,
        optimizer: OptimizerFactory,
        schedule: Literal["cosine", "plateau", "constant"] = "constant",
        warmup_epochs: int = 0,
        metrics: WatchedMetrics | None = None,
        replication: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.tuning_metrics = metrics
        self.replication = replication
        self._train_loss: list[Tensor] = []  # sum and count of the epoch so far
        self._tuning: list[tuple[Tensor, Tensor]] = []  # outputs (N, O) and outcomes (N, L)

    def forward(self, batch: SequenceBatch) -> Prediction:
        """Outputs (B, O) and attention (B, T) of a batch."""
        prediction: Prediction = self.model(batch)
        return prediction

    def training_step(self, batch: SequenceBatch, _: int) -> Tensor:
        """One step; the loss is summed on the device and read once an epoch."""
        if self.replication and not isinstance(batch, StepBatch):
            loss, count = self._replicated(batch), len(batch)
        else:
            output, outcome, _samples = outputs_of(self.model, batch)
            loss, count = self.model.objective.loss(output, outcome), len(output)
        self._add(loss.detach(), count)
        return loss

    def validation_step(self, batch: SequenceBatch, _: int) -> None:
        """Scores a tuning batch."""
        output, outcome, _samples = outputs_of(self.model, batch)
        self._tuning.append((output.float(), outcome))
        if self.tuning_metrics is not None:
            self.tuning_metrics.update(self.model.objective.predict(output.float()), outcome)

    def _replicated(self, batch: SequenceBatch) -> Tensor:
        """The loss of the last output, and of all earlier ones against the same outcome (Lipton et al. 2016)."""
        outputs = self.model.at_steps(batch)
        real = step_mask(batch.lengths, batch.steps)
        outcomes = batch.targets.unsqueeze(1).expand(-1, batch.steps, -1)
        last = outputs[torch.arange(len(batch), device=outputs.device), batch.lengths - 1]
        objective = self.model.objective
        early = objective.loss(outputs[real], outcomes[real])
        return (1 - self.replication) * objective.loss(last, batch.targets) + self.replication * early

    def on_validation_epoch_end(self) -> None:
        """Logs what training watches; exact over the whole split, never a mean over batches."""
        if self.tuning_metrics is not None:
            self.log_dict(self.tuning_metrics.compute())
        output, outcome = (torch.cat(parts) for parts in zip(*self._tuning, strict=True))
        self._tuning.clear()
        self.log("tuning/loss", self.model.objective.loss(output, outcome))

    def train_loss(self) -> float:
        """The mean training loss of the epoch that just ended; starts anew with the next."""
        total, count = self._train_loss.pop()
        return float(total / count)

    def _add(self, mean: Tensor, count: int) -> None:
        new = torch.stack([mean.double() * count, torch.tensor(count, dtype=torch.float64, device=mean.device)])
        self._train_loss = [sum(self._train_loss, new)]

    def configure_optimizers(self) -> Any:
        """The optimiser and, where there is one, its schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.schedule == "plateau":
            plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "tuning/loss"}}
        if self.schedule == "constant" and not self.warmup_epochs:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        epochs = self.trainer.max_epochs or 1
        factor = cosine_with_warmup(steps, steps * self.warmup_epochs // epochs, decay=self.schedule == "cosine")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
