"""Explanations by what a network tells of itself: attention, RETAIN's contributions, gates."""

from typing import ClassVar

import torch
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import RunError
from ehrseq.explain.base import Attribution, Explainer
from ehrseq.explain.gradients import GradientXInput
from ehrseq.explain.histories import Histories
from ehrseq.nn import GRUEncoder, LSTMEncoder, Prediction, SequenceModel, SumPooling, contributions, replay_gates
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
    """The attention of each step, shared out among its events by the size of their gradient times input.

    Attention alone is of whole steps. Here a step keeps what it has, and the parts of a history sum to one (less what
    is attended to in steps in which nothing was measured); what has no step (statics, what is older) gets 0.
    """

    name: ClassVar[str] = "attention_by_event"
    signed: ClassVar[bool] = False

    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        with torch.no_grad():
            steps = _weights(self.model(histories.batch))
        step = histories.step.expand(len(histories), -1)
        size = super().attribute(histories).parts.abs().masked_fill(step < 0, 0.0)
        whole = torch.zeros_like(steps, dtype=size.dtype).scatter_add(1, step.clamp(min=0), size)
        share = size / whole.gather(1, step.clamp(min=0)).clamp(min=torch.finfo(size.dtype).tiny)
        weights = self._of_steps(histories, steps)
        return Attribution(self.name, self.signed, share * weights.parts, steps)


class Contributions(GradientXInput):
    """RETAIN's exact contributions (Choi et al. 2016): what each step adds; see `ehrseq.nn.contributions`.

    Steps and `rest` sum to the score. An event's number is the gradient of its steps' contributions times its input,
    with alpha and beta held fixed, as in the paper's equation 5; what the embedding bends is left out of it.

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
        parts = super().attribute(histories).parts
        return Attribution(self.name, self.signed, parts, steps, rest)

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


def has_attention(model: SequenceModel) -> bool:
    """Whether a network weighs its steps."""
    return model.pooling.gives_attention or model.encoder.gives_attention


def has_gates(model: SequenceModel) -> bool:
    """Whether a network has gates that can be read."""
    return isinstance(model.encoder, LSTMEncoder | GRUEncoder)


def has_contributions(model: SequenceModel) -> bool:
    """Whether the output of a network is a sum over its steps, each of which speaks of itself."""
    alone = isinstance(model.pooling, SumPooling) and model.head.linear is not None and model.summary is None
    return alone and isinstance(model.encoder, RetainEncoder)


def _weights(prediction: Prediction) -> Tensor:
    if prediction.attention is None:
        raise RunError(
            "this model gives no weights to its steps; leave the attention explainers out of explain.explainers"
        )
    return prediction.attention.float()
