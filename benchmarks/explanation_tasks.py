"""The synthetic tasks that the field holds explanations of time series against, regenerated from their definitions.

Every task is (N, T, F) values, (N, T) labels and the (N, T, F) positions that are salient. State and Switch-Feature are
of Tonekaboni et al. (2020, "What went wrong and when?"), Rare-Time and Rare-Feature of Crabbe and van der Schaar (2021,
"Dynamask"), with the constants of time-interpret 0.3.0 and of the papers' own code.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ehrseq.config.schema import Loss
from ehrseq.data import GridBatch
from ehrseq.explain.grids import GridHistories
from ehrseq.explain.histories import StaticCodes, no_links
from ehrseq.nn import GridEmbedding, Head, Prediction, SequenceModel
from ehrseq.nn.encoders import Encoder
from ehrseq.nn.objectives import BinaryObjective, Objective
from ehrseq.nn.pooling import Pooling

Floats = NDArray[np.float64]
PLAIN = Loss(
    class_weight="none",
    focal=0.0,
    logit_adjustment=0.0,
    label_smoothing=0.0,
    target_replication=0.0,
    outputs_share=1.0,
    attention_entropy=0.0,
    attention_gradient=0.0,
    attention_consistency=0.0,
)


@dataclass(frozen=True)
class Task:
    """Values (N, T, F), labels (N, T) and what is salient (N, T, F)."""

    values: Tensor
    labels: Tensor
    salient: NDArray[np.bool_]

    def __getitem__(self, rows: slice) -> "Task":
        return Task(self.values[rows], self.labels[rows], self.salient[rows])


def state(count: int, seed: int, steps: int = 200) -> Task:
    """State: a hidden Markov chain of two states; in each another of three features makes the label."""
    generator = np.random.default_rng(seed)
    mean = np.array([[0.1, 1.6, 0.5], [-0.1, -0.4, -1.5]])
    feature = np.array([1, 2])
    spread = []
    for number in range(2):
        covariance = 0.8 * np.eye(3)
        covariance[feature[number], 0] = covariance[0, feature[number]] = 0.01
        spread.append(np.linalg.cholesky(covariance + 1e-3 * np.eye(3)))
    now = generator.integers(0, 2, count)
    stayed = np.zeros(count)
    states = np.zeros((count, steps), np.int64)
    for step in range(steps):
        # The longer in the second state, the likelier it is left.
        chance = np.where(now == 1, 0.95 - stayed / 500, 0.05)
        after = (generator.random(count) < chance).astype(np.int64)
        stayed = np.where(after == now, stayed + 1, 0)
        states[:, step] = now = after
    noise = generator.normal(size=(count, steps, 3))
    values = mean[states] + np.einsum("ntij,ntj->nti", np.stack(spread)[states], noise)
    return _labelled(generator, values, feature[states], 2.0)


def switch_feature(count: int, seed: int, steps: int = 100) -> Task:
    """Switch-Feature: three states; in each another feature makes the label; values are a Gaussian process a stay."""
    generator = np.random.default_rng(seed)
    mean = np.array([[0.8, -0.5, -0.2], [0.0, -1.0, 0.0], [-0.2, -0.2, 0.8]])
    change = np.array([[0.95, 0.02, 0.03], [0.02, 0.95, 0.03], [0.03, 0.02, 0.95]])
    scales = np.random.default_rng(0).uniform(0.5, 2.5, 3)  # the same in all splits
    apart = (np.arange(steps)[:, None] - np.arange(steps)) ** 2
    roots = [np.linalg.cholesky(0.1 * np.exp(-apart / (2 * scale**2)) + 1e-6 * np.eye(steps)) for scale in scales]
    states = np.zeros((count, steps), np.int64)
    values = np.zeros((count, steps, 3))
    for row in range(count):
        now = int(generator.random() < 1 / 3)
        for step in range(steps):
            now = int(generator.choice(3, p=change[now])) if step else now
            states[row, step] = now
        ends = [*(np.flatnonzero(np.diff(states[row])) + 1), steps]
        begin = 0
        for end in ends:
            stay = end - begin
            for place, root in enumerate(roots):
                values[row, begin:end, place] = root[:stay, :stay] @ generator.normal(size=stay)
            begin = end
        values[row] += mean[states[row]]
    return _labelled(generator, values, states, 3.0)


def rare(count: int, seed: int, kind: str) -> Task:
    """Rare-Time and Rare-Feature: 50 features of autoregressive noise, of which few places matter.

    Their model is known (`WhiteBox`): in Rare-Time five steps in a row of the features 12 to 36, in Rare-Feature five
    features in the steps 12 to 36.
    """
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(count, 50, 50))
    values = np.zeros_like(noise)
    for step in range(50):
        values[:, step] = noise[:, step]
        for lag, share in enumerate((0.25, 0.1, 0.05), start=1):
            if step >= lag:
                values[:, step] += share * values[:, step - lag]
    salient = np.zeros(values.shape, bool)
    for row in range(count):
        if kind == "rare_time":
            first = int(generator.integers(0, 45))
            salient[row, first : first + 5, 12:37] = True
        else:
            salient[row, 12:37, generator.choice(50, 5, replace=False)] = True
    return Task(torch.from_numpy(values).float(), torch.zeros(count, 50), salient)


def _labelled(generator: np.random.Generator, values: Floats, feature: NDArray[np.int64], slope: float) -> Task:
    chosen = np.take_along_axis(values, feature[..., None], 2)[..., 0]
    labels = generator.random(chosen.shape) < 1 / (1 + np.exp(-slope * chosen))
    salient = np.zeros(values.shape, bool)
    np.put_along_axis(salient, feature[..., None], values=True, axis=2)
    return Task(torch.from_numpy(values).float(), torch.from_numpy(labels).float(), salient)


def batch_of(values: Tensor, lengths: Tensor, labels: Tensor | None = None) -> GridBatch:
    """Complete measurements as a batch: one step an hour, everything seen in every step."""
    rows, steps, _ = values.shape
    real = torch.arange(steps) < lengths[:, None]
    return GridBatch(
        hours_before=(lengths[:, None] - 1 - torch.arange(steps)).clamp(min=0).float(),
        statics=torch.zeros(rows, 0),
        lengths=lengths,
        targets=torch.zeros(rows, 1) if labels is None else labels[:, None],
        auxiliary=torch.zeros(rows, 0),
        samples=torch.arange(rows),
        values=values * real.unsqueeze(-1),
        observed=real.unsqueeze(-1).expand_as(values).float(),
        hours_since=torch.zeros_like(values),
    )


def histories_of(values: Tensor, lengths: Tensor) -> GridHistories:
    """The same as histories whose every cell is a part; nothing is older than the first step."""
    rows, steps, features = values.shape
    batch = batch_of(values, lengths)
    older = torch.zeros(rows, 1, features)
    age = batch.hours_before.unsqueeze(-1).expand_as(values)
    present = torch.cat([older, batch.observed], 1).flatten(1) > 0
    return GridHistories(
        batch=batch,
        present=present,
        code=torch.arange(features).repeat(steps + 1)[None],
        step=torch.arange(-1, steps).repeat_interleave(features)[None],
        hours=torch.cat([older, age], 1).flatten(1),
        value=torch.cat([older, batch.values], 1).flatten(1),
        statics=StaticCodes((), torch.zeros(0, dtype=torch.int64)),
        links=no_links(),
        cell_value=torch.cat([older, batch.values], 1),
        cell_age=torch.cat([older, age], 1),
        numeric=torch.ones(features, dtype=torch.bool),
        bin_hours=1.0,
    )


def network(features: int, encoder: Encoder, pooling: Pooling) -> SequenceModel:
    """A network that reads values alone."""
    embedding = GridEmbedding(features, 0, statics="none", features=("value",))
    return SequenceModel(embedding, encoder, pooling, Head(pooling.output_size), BinaryObjective(1, PLAIN))


def fit(model: SequenceModel, task: Task, updates: int, seed: int, rate: float = 3e-3) -> SequenceModel:
    """Learn the label of the last of the first t steps, t drawn anew for every batch, as the papers do."""
    generator = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for _ in range(updates):
        rows = torch.from_numpy(generator.choice(len(task.values), 64))
        length = int(generator.integers(1, task.values.shape[1] + 1))
        batch = batch_of(task.values[rows, :length], torch.full((64,), length), task.labels[rows, length - 1])
        loss = model.objective.loss(model(batch).output, batch.targets)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


class Sums(Objective):
    """A score that is the output."""

    outputs = 1

    def loss(self, output: Tensor, outcome: Tensor) -> Tensor:
        """Not learned."""
        raise NotImplementedError

    def predict(self, output: Tensor) -> Tensor:
        """The output."""
        return output


class WhiteBox(nn.Module):
    """The known model of the rare tasks: the sum of the squares of what is salient."""

    def __init__(self, salient: NDArray[np.bool_]) -> None:
        super().__init__()
        self.objective = Sums()
        self.salient = torch.from_numpy(salient).float()

    def forward(self, batch: GridBatch) -> Prediction:
        """Sum up."""
        squares = (batch.values**2 * self.salient[batch.samples]).sum((1, 2))
        return Prediction(squares[:, None, None], None, batch.values, squares.new_zeros(len(squares), 0))
