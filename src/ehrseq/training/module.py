"""The LightningModule: it receives built blocks and holds no knowledge of configs."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ehrseq.data.batch import SequenceBatch, StepBatch
from ehrseq.metrics.streaming import WatchedMetrics
from ehrseq.nn import Prediction, SequenceModel, Told, step_mask
from ehrseq.training.attention_aid import AttentionAid
from ehrseq.training.inference import auxiliary_of, look, outputs_of, told_to
from ehrseq.training.schedule import cosine_with_warmup

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class Teaching(NamedTuple):
    """How much a teacher counts beside the outcome, see `ehrseq.nn.Told`."""

    weight: float
    scale: float | None


class SequenceModule(lightning.LightningModule):
    """Trains a `SequenceModel`.

    Args:
        model: The network.
        optimizer: Makes the optimiser from the parameters.
        schedule: Learning-rate schedule: `cosine` over all steps, `plateau` on tuning loss, or `constant`.
        warmup_epochs: Linear warm-up before a cosine or constant schedule.
        metrics: What is watched on `tuning` beside the loss.
        replication: Share of the loss that outputs before the last have, which learn the same outcome.
        share: Of the predictions of each history that a batch learns from, where there is one at every step. Those of
            one history are alike: of more histories fewer each make a better batch.
        seed: Of dropout.
        aid: What attention learns beside the outcome; nothing by default.
        teaching: How much a teacher counts, whose logits are the last of the batches' auxiliary outcomes; None: there
            is none.
    """

    def __init__(
        self,
        model: SequenceModel,
        optimizer: OptimizerFactory,
        schedule: Literal["cosine", "plateau", "constant"] = "constant",
        warmup_epochs: int = 0,
        metrics: WatchedMetrics | None = None,
        replication: float = 0.0,
        share: float = 1.0,
        seed: int = 0,
        aid: AttentionAid | None = None,
        teaching: Teaching | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_epochs = warmup_epochs
        self.tuning_metrics = metrics
        self.replication = replication
        self.share = share
        self.seed = seed
        self.aid = aid or AttentionAid()
        self.teaching = teaching
        self._sums: dict[str, Tensor] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """As `nn.Module` does, but for what Lightning notes twice a hook, which is no part of the network."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, batch: SequenceBatch) -> Prediction:
        """Outputs (B, O) and attention (B, T) of a batch."""
        prediction: Prediction = self.model(batch)
        return prediction

    def on_train_batch_start(self, batch: SequenceBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Make this step's random numbers a function of what step it is, and of nothing that came before."""
        place = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
        # `torch.manual_seed` keeps a traceback for each call where there is no GPU, at a third of a millisecond.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def transfer_batch_to_device(
        self,
        batch: SequenceBatch,
        device: torch.device,
        dataloader_idx: int,  # noqa: ARG002
    ) -> SequenceBatch:
        """Hand a batch over, without looking through it for what else could be; a GPU fetches it while it works on."""
        return batch.to(device, non_blocking=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of the epoch so far, of each rank."""
        sums = dict(self._sums)
        if self.trainer.world_size > 1:
            sums = {name: self.trainer.strategy.all_gather(value) for name, value in sums.items()}
        checkpoint["sums"] = sums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        alone = self.trainer.world_size == 1
        sums = {name: value if alone else value[self.global_rank] for name, value in checkpoint["sums"].items()}
        self._sums = {name: value.to(self.device) for name, value in sums.items()}

    def training_step(self, batch: SequenceBatch, _: int) -> Tensor:
        """One step; the loss of the outcomes is summed on the device and read once an epoch."""
        if self.replication and not isinstance(batch, StepBatch):
            prediction = self.model.at_steps(batch)
            loss = self._replicated(batch, prediction.opinions)
            prediction = prediction._replace(auxiliary=_at_end(batch, prediction.auxiliary))
            terms, counts = loss[None], loss.new_tensor([len(batch)])
        else:
            if self.share < 1 and isinstance(batch, StepBatch):
                batch = batch.thinned(self.share)
            batch = self.aid.prepare(batch)
            prediction = look(self.model, batch)
            opinions, outcome, _samples = outputs_of(batch, prediction)
            terms, counts = self.model.terms(opinions, outcome, self._told(told_to(batch)))
            loss = terms.sum()
        self._add("train/loss", terms.detach(), counts)
        if self.model.next_values is not None:
            loss = loss + self.model.forecast_loss(batch, prediction.hidden)
        if self.model.auxiliary is not None:
            loss = loss + self.model.auxiliary_loss(*auxiliary_of(batch, prediction))
        return loss + self.aid.loss(self.model, batch, prediction) if self.aid else loss

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Forget the gradients; as the optimiser does, without the notes that it takes for torch's profiler."""
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = None

    def try_step(self, batch: SequenceBatch) -> None:
        """Forward and backward that leave no trace, neither in gradients nor in figures."""
        sums = dict(self._sums)
        loss = self.training_step(batch, 0)
        # Not `backward`, of which others may have been told to listen.
        torch.autograd.grad(loss, [weight for weight in self.parameters() if weight.requires_grad], allow_unused=True)
        self._sums = sums

    def validation_step(self, batch: SequenceBatch, _: int) -> None:
        """Scores a tuning batch."""
        opinions, outcome, _samples = outputs_of(batch, look(self.model, batch))
        output = opinions.float().mean(1)
        self._add("tuning/loss", *self.model.objective.terms(output, outcome))
        if self.tuning_metrics is not None:
            self.tuning_metrics.update(self.model.objective.predict(output), outcome)

    def _replicated(self, batch: SequenceBatch, opinions: Tensor) -> Tensor:
        """The loss of the last output, and of all earlier ones against the same outcome (Lipton et al. 2016)."""
        real = step_mask(batch.lengths, batch.steps)
        outcomes = batch.targets.unsqueeze(1).expand(-1, batch.steps, -1)
        logit = told_to(batch)
        at_end = self.model.terms(_at_end(batch, opinions), batch.targets, self._told(logit))
        early_logit = logit.unsqueeze(1).expand(-1, batch.steps, -1)[real]
        early = self.model.terms(opinions[real], outcomes[real], self._told(early_logit))
        return (1 - self.replication) * at_end[0].sum() + self.replication * early[0].sum()

    def _told(self, logit: Tensor) -> Told | None:
        """What the teacher says of some histories, (N, 1)."""
        return None if self.teaching is None else Told(logit, self.teaching.weight, self.teaching.scale)

    def on_validation_epoch_end(self) -> None:
        """Logs what training watches; exact over the whole split, never a mean over batches."""
        if self.tuning_metrics is not None:
            self.log_dict(self.tuning_metrics.compute())
        self.log("tuning/loss", self._mean("tuning/loss"))

    def train_loss(self) -> float:
        """The mean training loss of the epoch that just ended; starts anew with the next."""
        return float(self._mean("train/loss"))

    def _add(self, name: str, means: Tensor, counts: Tensor) -> None:
        new = torch.stack([means.double() * counts, counts.double()])
        self._sums[name] = self._sums[name] + new if name in self._sums else new

    def _mean(self, name: str) -> Tensor:
        sums = self._sums.pop(name)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        totals, counts = sums
        mean: Tensor = (totals / counts.clamp(min=1)).sum()
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


def _at_end(batch: SequenceBatch, outputs: Tensor) -> Tensor:
    """The outputs (B, T, ...) at the last step of each history, (B, ...)."""
    return outputs[torch.arange(len(batch), device=outputs.device), batch.lengths - 1]
