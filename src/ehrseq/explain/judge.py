"""All explainers of a network judged on the same histories: one row a history, one column a figure."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data import Representation
from ehrseq.explain.adversary import adversarial_divergence
from ehrseq.explain.agreement import correlation, evenness, overlap, spearman
from ehrseq.explain.base import Attribution, Explainer, score_of
from ehrseq.explain.controls import Controls
from ehrseq.explain.faithfulness import Figures, faithfulness
from ehrseq.explain.histories import Histories
from ehrseq.explain.planted import PlantedEvents, recovery
from ehrseq.explain.registry import cut_histories
from ehrseq.explain.sanity import shaken, with_even_attention, with_random_weights
from ehrseq.explain.weights import Attention
from ehrseq.nn import SequenceModel

RANDOM, UNTRAINED, SHUFFLED = "random", "random_weights", "shuffled_labels"
CHUNK = 256  # histories at once
CHECKED = 64  # histories, of all that are judged, whose explanations are made anew with noise and of no knowledge
_NOISE = 0.05  # in spreads of the train values
_LEADING = 20  # codes whose importance is held against that to other seeds


class Judge:
    """Judges explainers.

    The controls are `random`, which names parts in random order, and `random_weights`, the first explainer asked about
    a network of the same weights in random order; where there is one, also `shuffled_labels`, the same of a network
    that was trained on permuted labels.

    Args:
        model: The trained network.
        make: Makes the explainers of a network.
        mean_score: The score that predictions are above or below.
        planted: The truth, where there is one.
        seed: Of the controls and of the noise.
        networks: Others, which were trained for the verdict.
    """

    def __init__(
        self,
        model: SequenceModel,
        make: Callable[[SequenceModel], Sequence[Explainer]],
        mean_score: float,
        planted: PlantedEvents | None = None,
        seed: int = 0,
        networks: Controls | None = None,
    ) -> None:
        self.model, self.mean_score, self.planted, self.seed = model, mean_score, planted, seed
        networks = networks or Controls()
        self.explainers = make(model)
        self.untrained = make(with_random_weights(model, seed))
        self.shuffled = make(networks.shuffled_labels) if networks.shuffled_labels is not None else None
        self.seeds = [make(other) for other in networks.seeds]
        self._by_code: dict[str, NDArray[np.float64]] = {}
        self.even = with_even_attention(model)

    def run(
        self, representation: Representation, samples: NDArray[np.int64], device: torch.device, each: Callable[[], None]
    ) -> Figures:
        """Judge on some histories.

        Args:
            representation: Cuts the histories.
            samples: (N,) sample numbers.
            device: Where to run.
            each: Called after each chunk.

        Returns:
            (N,) figures by `<explainer>/<figure>`; see `faithfulness`. `noise`, `untrained`, `shuffled_labels` and
            `seeds` are NaN but for some 64 histories, evenly drawn: each needs another explanation, and their means are
            known soon.
        """
        parts = []
        checked = np.arange(len(samples)) % max(-(-len(samples) // CHECKED), 1) == 0
        for start in range(0, len(samples), CHUNK):
            histories = cut_histories(representation, samples[start : start + CHUNK]).to(device)
            parts.append(self.judge(histories, checked[start : start + CHUNK]))
            each()
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def judge(self, histories: Histories, checked: NDArray[np.bool_] | None = None) -> Figures:
        """The figures of B histories, (B,) each.

        Args:
            histories: B of them.
            checked: (B,) those that are explained anew, with noise and by other networks; None: all.
        """
        checked = np.ones(len(histories), bool) if checked is None else checked
        with torch.no_grad():
            score = score_of(self.model, histories.batch)
        direction = torch.where(score >= self.mean_score, 1.0, -1.0)
        found = {explainer.name: explainer.attribute(histories) for explainer in self.explainers}
        controls = self._controls(histories)
        figures: Figures = {}
        planted = self.planted.among(histories) if self.planted is not None else None
        present = histories.present.cpu().numpy()
        for name, attribution in (found | controls).items():
            weight = attribution.parts * direction[:, None] if attribution.signed else attribution.parts
            own = faithfulness(self.model, histories, weight, direction)
            if planted is not None:
                own["recovery_auprc"] = recovery(planted, _weight(attribution), present)
            figures |= {f"{name}/{figure}": value for figure, value in own.items()}
        if planted is not None:
            share = planted.sum(1) / np.maximum(present.sum(1), 1)
            figures["planted/share"] = np.where(planted.any(1), share, np.nan)
        return figures | self._trust(histories, found, checked) | self._attention(histories, found, score)

    def _controls(self, histories: Histories) -> dict[str, Attribution]:
        samples = histories.batch.samples.cpu().numpy()
        # Of each history its own, so that its company changes nothing.
        drawn = np.stack([np.random.default_rng([self.seed, sample]).random(histories.parts) for sample in samples])
        random = torch.from_numpy(drawn).float().to(histories.present.device) * histories.present
        found = {RANDOM: Attribution(RANDOM, signed=False, parts=random)}
        for name, explainers in ((UNTRAINED, self.untrained), (SHUFFLED, self.shuffled)):
            if explainers is not None:
                other = explainers[0].attribute(histories)
                found[name] = Attribution(name, other.signed, other.parts)
        return found

    def _trust(self, histories: Histories, found: dict[str, Attribution], checked: NDArray[np.bool_]) -> Figures:
        """How alike explanations are that should be, or should not be.

        Rank correlations of the weights of parts: `noise` of the history and the history with a little noise on its
        values, `untrained` of the network and one with its weights in random order, `shuffled_labels` and one trained
        on permuted labels, `seeds` and those of other seeds, a mean over them; `agreement` and `overlap` of pairs.
        """
        figures: Figures = {}
        weights = {name: _weight(attribution) for name, attribution in found.items()}
        present = histories.present.cpu().numpy()
        networks: dict[str, Sequence[Sequence[Explainer]]] = {
            "noise": [self.explainers],
            "untrained": [self.untrained],
            SHUFFLED: [self.shuffled] if self.shuffled is not None else [],
            "seeds": self.seeds,
        }
        asked = {name: others for name, others in networks.items() if others}
        for explainer in self.explainers:
            figures |= {f"{explainer.name}/{name}": np.full(len(histories), np.nan) for name in asked}
        if checked.any():
            some = histories.take(torch.from_numpy(np.flatnonzero(checked)).to(histories.present.device))
            nearby = shaken(some, _NOISE, self.seed)
            for number, explainer in enumerate(self.explainers):
                own = weights[explainer.name][checked]
                for name, others in asked.items():
                    given = nearby if name == "noise" else some
                    again = [_weight(other[number].attribute(given)) for other in others]
                    alike = [correlation(own, one, present[checked]) for one in again]
                    figures[f"{explainer.name}/{name}"][checked] = np.mean(alike, axis=0)
                    if name == "seeds":
                        self._sum_up(explainer.name, [own, *again], some)
        for one, another in combinations(found, 2):
            pair = weights[one], weights[another], present
            figures[f"{one}~{another}/agreement"] = correlation(*pair)
            figures[f"{one}~{another}/overlap"] = overlap(*pair)
        return figures

    def _sum_up(self, name: str, weights: Sequence[NDArray[np.float64]], histories: Histories) -> None:
        """Add up what each code weighs, by the network that is explained and by those of other seeds, (1 + K, C)."""
        present = histories.present.cpu().numpy()
        code = histories.code.expand(len(histories), -1).cpu().numpy()[present]
        known = self._by_code.get(name, np.zeros((len(weights), 0)))
        width = max(int(code.max(initial=-1)) + 1, known.shape[1])
        sums = np.zeros((len(weights), width))
        for own, weight in zip(sums, weights, strict=True):
            own += np.bincount(code, weight[present], minlength=width)  # noqa: PLW2901
        sums[:, : known.shape[1]] += known
        self._by_code[name] = sums

    def importance_across_seeds(self) -> dict[str, float]:
        """How alike the importance of codes is to networks of other seeds, after `run`.

        Returns:
            `<explainer>/seeds_importance`: rank correlation over the 20 codes that weigh most, a mean over seeds.
        """
        found = {}
        for name, (own, *others) in self._by_code.items():
            top = np.argsort(-own, kind="stable")[:_LEADING]
            found[f"{name}/seeds_importance"] = float(np.mean([spearman(own[top], other[top]) for other in others]))
        return found

    @torch.no_grad()
    def _attention(self, histories: Histories, found: dict[str, Attribution], score: Tensor) -> Figures:
        """How even attention is, how far scores move when it is made even, and whether others do as well."""
        if Attention.name not in found:
            return {}
        steps = found[Attention.name].steps
        assert steps is not None
        moved = (score - score_of(self.even, histories.batch)).abs()
        lengths = histories.batch.lengths.cpu().numpy()
        adversary = adversarial_divergence(self.model, histories.batch, self.seed)
        return ({} if adversary is None else {f"{Attention.name}/adversary": adversary}) | {
            f"{Attention.name}/evenness": evenness(steps.double().cpu().numpy(), lengths),
            f"{Attention.name}/moved_by_even_weights": moved.double().cpu().numpy(),
        }


def _weight(attribution: Attribution) -> NDArray[np.float64]:
    """How much each part weighs, whichever way."""
    return attribution.parts.abs().double().cpu().numpy()
