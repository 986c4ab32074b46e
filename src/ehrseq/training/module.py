"""The LightningModule: it receives built blocks and holds no knowledge of configs."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ehrseq.data.batch import SequenceBatch
from ehrseq.metrics.streaming import binary_collection
from ehrseq.nn import Prediction, SequenceModel
from ehrseq.training.schedule import cosine_with_warmup

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class SequenceClassifier(lightning.LightningModule):
    """Trains a `SequenceModel` on a binary outcome.

    Args:
        model: The network.
        optimizer: Makes the optimiser from the parameters.
        schedule: Learning-rate schedule: `cosine` over all steps, `plateau` on tuning loss, or `constant`.
        warmup_epochs: Linear warm-up before a cosine or constant schedule.
        positive_weight: Weight of a positive in the loss; 1 is plain binary cross-entropy.
    """

    def __init__(
        self,
        model: SequenceModel,
        optimizer: OptimizerFactory,
        schedule: Literal["cosine", "plateau", "constant"] = "constant",
        warmup_epochs: int = 0,
        positive_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.register_buffer("positive_weight", torch.tensor(positive_weight), persistent=False)
        self.tuning_metrics = binary_collection("tuning/")
        self._sums: dict[str, Tensor] = {}

    def forward(self, batch: SequenceBatch) -> Prediction:
        """Logits (B,) and attention (B, T) of a batch."""
        prediction: Prediction = self.model(batch)
        return prediction

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean weighted binary cross-entropy of logits (B,) and targets (B,)."""
        weight = self.get_buffer("positive_weight")
        loss: Tensor = nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
        return loss

    def training_step(self, batch: SequenceBatch, _: int) -> Tensor:
        """One step; the loss is summed on the device and read once an epoch."""
        loss = self.loss(self(batch).logits, batch.targets)
        self._add("train/loss", loss.detach(), len(batch))
        return loss

    def validation_step(self, batch: SequenceBatch, _: int) -> None:
        """Scores a tuning batch."""
        logits = self(batch).logits
        self._add("tuning/loss", self.loss(logits, batch.targets), len(batch))
        self.tuning_metrics.update(torch.sigmoid(logits.float()), batch.targets.long())

    def on_validation_epoch_end(self) -> None:
        """Logs what training watches; exact over the whole split, never a mean over batches."""
        self.log_dict(self.tuning_metrics.compute())
        self.log("tuning/loss", self._mean("tuning/loss"))
        self.tuning_metrics.reset()

    def train_loss(self) -> float:
        """The mean training loss of the epoch that just ended; starts anew with the next."""
        return float(self._mean("train/loss"))

    def _add(self, name: str, mean: Tensor, count: int) -> None:
        new = torch.stack([mean.double() * count, torch.tensor(count, dtype=torch.float64, device=mean.device)])
        self._sums[name] = self._sums[name] + new if name in self._sums else new

    def _mean(self, name: str) -> Tensor:
        total, count = self._sums.pop(name)
        mean: Tensor = total / count
        return mean

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
