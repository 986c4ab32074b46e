"""Explanations by what a network tells of itself: attention, RETAIN's contributions, gates."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import RunError
from ehrseq.explain.base import Attribution, Explainer
from ehrseq.explain.gradients import GradientXInput
from ehrseq.explain.histories import Histories
from ehrseq.nn import (
    EventAttentionEncoder,
    GRUEncoder,
    LSTMEncoder,
    Prediction,
    SequenceModel,
    SumPooling,
    contributions,
    read_batch,
    replay_gates,
)
from ehrseq.nn.encoders import RetainEncoder


class Attention(Explainer):
    """The weight of each step in what is pooled: the pooling's, or the encoder's own.

    It says nothing of what goes past the attention (the last state, the maximum, a summary network), nor whether a step
    speaks for or against.

    Raises:
        RunError: If the network has no attention.
    """

    name: ClassVar[str] = "attention"
    signed: ClassVar[bool] = False

    @torch.no_grad()
    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        return self._of_steps(histories, _weights(self.model(histories.batch)))


class AttentionXValue(Attention):
    """Attention times the length of what is attended to (Kobayashi et al. 2020, "Attention is Not Only a Weight")."""

    name: ClassVar[str] = "attention_x_value"

    @torch.no_grad()
    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        prediction = self.model(histories.batch)
        return self._of_steps(histories, _weights(prediction) * prediction.hidden.norm(dim=-1))


class AttentionXGradient(GradientXInput):
    """Attention of the step times gradient and input of the event: attention that knows which of a step's events count.

    What has no step (statics, what is older than all steps) has no attention and gets 0.
    """

    name: ClassVar[str] = "attention_x_gradient"

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        with torch.no_grad():
            weights = self._of_steps(histories, _weights(self.model(histories.batch)))
        slopes = super().attribute(histories)
        return Attribution(self.name, self.signed, slopes.parts * weights.parts)


class AttentionByEvent(GradientXInput):
    """The weight of each event: its own where the network weighs events, else its share of the weight of its step.

    Most attention is of whole steps. It is shared out among a step's events by the size of their gradient times input:
    a step keeps what it has, and the parts of a history sum to one (less what is attended to in steps in which nothing
    was measured); what has no step (statics, what is older) gets 0.
    """

    name: ClassVar[str] = "attention_by_event"
    signed: ClassVar[bool] = False

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        if weighs_events(self.model):
            with torch.no_grad():
                own, _, _ = _weighed(self.model, histories.batch)
            return Attribution(self.name, self.signed, _of_cells(histories, own))
        with torch.no_grad():
            steps = _weights(self.model(histories.batch))
        step = histories.step.expand(len(histories), -1)
        size = super().attribute(histories).parts.abs().masked_fill(step < 0, 0.0)
        whole = torch.zeros_like(steps, dtype=size.dtype).scatter_add(1, step.clamp(min=0), size)
        share = size / whole.gather(1, step.clamp(min=0)).clamp(min=torch.finfo(size.dtype).tiny)
        weights = self._of_steps(histories, steps)
        return Attribution(self.name, self.signed, share * weights.parts, steps)


class Contributions(GradientXInput):
    """Exact contributions: what each step adds; see `ehrseq.nn.contributions`.

    Steps and `rest` sum to the score. Of RETAIN (Choi et al. 2016) an event's number is the gradient of its steps'
    contributions times its input, with alpha and beta held fixed, as in the paper's equation 5; what the embedding
    bends is left out of it. Of `EventAttentionEncoder` it is exact as well: events and `rest` sum to the score, too.

    Raises:
        ConfigError: If the network's outputs are not such sums.
    """

    name: ClassVar[str] = "contributions"

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        with torch.no_grad():
            found = contributions(self.model, histories.batch)
        output = self.model.objective.score
        rest = output((found.statics + found.bias).expand(len(histories), -1))
        steps = torch.stack([output(step) for step in found.steps.unbind(1)], dim=1)
        if not isinstance(self.model.encoder, EventAttentionEncoder):
            return Attribution(self.name, self.signed, super().attribute(histories).parts, steps, rest)
        with torch.no_grad():
            weights, numbers, encoder = _weighed(self.model, histories.batch)
            linear = self.model.head.linear
            assert linear is not None
            slope = encoder.meaning @ linear.weight.T[: encoder.output_size]
            cells = weights.unsqueeze(-1) * torch.einsum("btfp,fpo->btfo", numbers, slope)
            shares = output(cells.flatten(0, 2)).view(cells.shape[:3])
        return Attribution(self.name, self.signed, _of_cells(histories, shares), steps, rest)

    def score(self, batch: SequenceBatch) -> Tensor:
        """The score as it depends on what is read, but for alpha and beta."""
        model = self.model
        encoder = model.encoder
        if not isinstance(encoder, RetainEncoder):
            return super().score(batch)
        embedded = model.embed(batch)
        with torch.no_grad():
            alpha, beta = encoder.attention(embedded, batch.lengths)
        pooled = (alpha.unsqueeze(-1) * beta * embedded).sum(1)
        return model.objective.score(model.head(pooled, batch.statics))


class Gates(Explainer):
    """What an LSTM or GRU wrote at each step and did not forget since: the step's share of the last state.

    LSTM: c_T is the sum over t of (f_{t+1} ... f_T) i_t g_t; GRU: h_T is that of (z_{t+1} ... z_T) (1 - z_t) n_t. A
    step's number is the length of its term, of an LSTM times the output gate that shows it. Of the top layer; the
    backward net of two directions counts alike, from the other end.

    Raises:
        ConfigError: If the encoder is neither LSTM nor GRU.
    """

    name: ClassVar[str] = "gates"
    signed: ClassVar[bool] = False

    @torch.no_grad()
    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        batch = histories.batch
        traces = replay_gates(self.model.encoder, self.model.embed(batch), batch.lengths)
        total = torch.zeros_like(batch.hours_before)
        for trace in [trace for trace in traces if trace.layer == traces[-1].layer]:
            gates = trace.gates
            lstm = "forget" in gates
            kept = gates["forget"] if lstm else gates["update"]
            written = gates["input"] * gates["cell"] if lstm else (1 - gates["update"]) * gates["candidate"]
            backward = trace.direction == "backward"
            # Padding forgets nothing and writes nothing.
            real = (torch.arange(batch.steps, device=kept.device) < batch.lengths[:, None]).unsqueeze(-1)
            logs = torch.where(real, kept.clamp(min=1e-12).log(), 0.0)
            left = logs.cumsum(1) - logs if backward else logs.flip(1).cumsum(1).flip(1) - logs
            term = left.exp() * written
            if lstm:
                last = torch.zeros_like(batch.lengths) if backward else (batch.lengths - 1).clamp(min=0)
                term = term * gates["output"][torch.arange(len(last)), last].unsqueeze(1)
            total = total + term.norm(dim=-1)
        return self._of_steps(histories, total)


def weighs_events(model: SequenceModel) -> bool:
    """Whether a network weighs single events, and what it weighs is all that it reads."""
    return isinstance(model.encoder, EventAttentionEncoder) and isinstance(model.pooling, SumPooling)


def has_attention(model: SequenceModel) -> bool:
    """Whether a network weighs its steps."""
    return model.pooling.gives_attention or model.encoder.gives_attention


def has_gates(model: SequenceModel) -> bool:
    """Whether a network has gates that can be read."""
    return isinstance(model.encoder, LSTMEncoder | GRUEncoder)


def has_contributions(model: SequenceModel) -> bool:
    """Whether the output of a network is a sum over its steps, each of which speaks of itself."""
    alone = isinstance(model.pooling, SumPooling) and model.head.linear is not None and model.summary is None
    return alone and isinstance(model.encoder, RetainEncoder | EventAttentionEncoder)


def _weights(prediction: Prediction) -> Tensor:
    if prediction.attention is None:
        raise RunError(
            "this model gives no weights to its steps; leave the attention explainers out of explain.explainers"
        )
    return prediction.attention.float()


def _weighed(model: SequenceModel, batch: SequenceBatch) -> tuple[Tensor, Tensor, EventAttentionEncoder]:
    """What `EventAttentionEncoder.events` says of a batch, and who said it."""
    encoder = model.encoder
    assert isinstance(encoder, EventAttentionEncoder)
    weights, numbers = encoder.events(model.embed(batch), batch.lengths, **read_batch(batch, encoder.reads))
    return weights, numbers, encoder


def _of_cells(histories: Histories, cells: Tensor) -> Tensor:
    """Numbers of cells (B, T + 1, F) as parts (B, P); statics have none."""
    parts = functional.pad(cells.flatten(1), (0, histories.parts - histories.timed))
    return parts.masked_fill(~histories.present, 0.0)
