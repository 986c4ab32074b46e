"""The verdict: which explainer can be believed, how far, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ehrseq.explain.controls import tell_tests
from ehrseq.explain.faithfulness import Figures
from ehrseq.explain.judge import RANDOM, SHUFFLED, UNTRAINED
from ehrseq.explain.registry import ATTENTION
from ehrseq.metrics.intervals import Draws, Estimate, estimate

_ALIKE = 0.7  # rank correlation above which an explanation does not depend on what was learned
_MANY = 1e6  # times random and more: random moves nothing, and there is no bound
_EVEN = 0.95  # of the largest entropy
_OTHER = 0.5  # of the largest divergence of weights that give the same score
_STABLE = 0.5  # rank correlation with other seeds below which an explanation is of one network alone
_CONTROLS = {RANDOM: "random", UNTRAINED: "untrained", SHUFFLED: SHUFFLED}  # and how differences from them end
# Differences whose interval is not known may be chance.
_UNJUDGED = "No verdict: without bootstrap samples (evaluate.replicates=0) chance cannot be told from effect."
_WORDS = {
    "random_weights": "random weights",
    "shuffled_labels": "trained on permuted labels",
    "gradient_x_input": "gradient times input",
    "code_occlusion": "leaving out whole codes",
    "window_occlusion": "leaving out codes by windows of time",
    "time_occlusion": "leaving out windows of time",
    "occlusion": "leaving out single events",
    "attention_x_value": "attention times value",
    "attention_by_event": "attention by event",
    "attention_x_gradient": "attention times gradient",
    "deep_lift": "DeepLIFT",
    "extremal_mask": "a learned mask",
    "contributions": "exact contributions",
    "gates": "the gates",
    "shapley": "Shapley values",
}


@dataclass(frozen=True)
class Verdict:
    """What became of the explainers of a run.

    Attributes:
        sentence: In words.
        ranking: The explainers, the most faithful first.
        believed: Those that are better than all controls, with intervals of the difference above 0.
        metrics: Figures with intervals, by `<explainer>/<figure>`.
        histories: How many they were judged on.
    """

    sentence: str
    ranking: tuple[str, ...]
    believed: tuple[str, ...]
    metrics: dict[str, Estimate]
    histories: int


def words_for(explainer: str) -> str:
    """An explainer's name in a sentence."""
    return _WORDS.get(explainer, explainer.replace("_", " "))


def reach_verdict(
    figures: Figures,
    explainers: Sequence[str],
    subjects: NDArray[np.generic],
    *,
    replicates: int,
    seed: int,
    level: float,
    tests: Mapping[str, Estimate] | None = None,
) -> Verdict:
    """Means with bootstrap intervals by subject, and what follows from them.

    Explainers are ranked by comprehensiveness. `<explainer>/over_random`, `<explainer>/over_untrained` and
    `<explainer>/over_shuffled_labels` are the paired differences from the controls, `<explainer>/times_random` the
    ratio.

    Args:
        figures: (N,) each, of `Judge.run`.
        explainers: Their names.
        subjects: (N,) whose history each is.
        replicates: Bootstrap samples.
        seed: Of these.
        level: Coverage of the intervals.
        tests: What was found elsewhere: of attention, see `ehrseq.explain.controls.attention_tests`; across seeds.
    """
    gains = {
        f"{name}/over_{words}": _difference(figures, name, control)
        for control, words in _CONTROLS.items()
        for name in explainers
        if f"{control}/comprehensiveness" in figures
    }
    draws = _draw(subjects, replicates, seed)
    metrics = _means(figures | gains, draws, level) | dict(tests or {})
    base = _mean(figures[f"{RANDOM}/comprehensiveness"], draws)
    for name in explainers:
        own = figures[f"{name}/comprehensiveness"]
        points = _mean(own, None)[0], _mean(figures[f"{RANDOM}/comprehensiveness"], None)[0]
        if points[1] > 0:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(base > 0, _mean(own, draws) / base, _MANY)
            found = estimate(points[0] / points[1], ratio, level)
            low, high = (None if end is None or end >= _MANY else end for end in (found.ci_low, found.ci_high))
            metrics[f"{name}/times_random"] = Estimate(found.value, low, high)
    ranking = tuple(sorted(explainers, key=lambda name: -_value(metrics, f"{name}/comprehensiveness")))
    believed = tuple(name for name in ranking if _is_believed(metrics, name))
    sentence = _sentence(metrics, ranking, believed) if replicates else _UNJUDGED
    return Verdict(sentence, ranking, believed, metrics, len(subjects))


def estimate_means(
    figures: Figures, subjects: NDArray[np.generic], *, replicates: int, seed: int, level: float
) -> dict[str, Estimate]:
    """Means of (N,) figures with bootstrap intervals by subject; the arguments are those of `reach_verdict`."""
    return _means(figures, _draw(subjects, replicates, seed), level) if figures else {}


def _draw(subjects: NDArray[np.generic], replicates: int, seed: int) -> NDArray[np.float64]:
    return np.concatenate([*Draws(subjects, replicates, seed)]) if replicates else np.ones((0, len(subjects)))


def _means(figures: Figures, draws: NDArray[np.float64], level: float) -> dict[str, Estimate]:
    return {name: estimate(_mean(value, None)[0], _mean(value, draws), level) for name, value in figures.items()}


def _difference(figures: Figures, name: str, control: str) -> NDArray[np.float64]:
    return figures[f"{name}/comprehensiveness"] - figures[f"{control}/comprehensiveness"]


def _mean(value: NDArray[np.float64], draws: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The mean of what is known, as it is or in each draw, (R,)."""
    known = ~np.isnan(value)
    weights = known[None].astype(np.float64) if draws is None else draws * known
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: NDArray[np.float64] = weights @ np.where(known, value, 0.0) / weights.sum(1)
    return mean


def _value(metrics: dict[str, Estimate], name: str) -> float:
    found = metrics[name].value if name in metrics else None
    return float("nan") if found is None else found


def _above(metrics: dict[str, Estimate], name: str) -> bool:
    """Whether a difference is above 0, with its interval."""
    low = metrics[name].ci_low
    return low is not None and low > 0


def _is_believed(metrics: dict[str, Estimate], name: str) -> bool:
    against = [f"{name}/over_{words}" for words in _CONTROLS.values() if f"{name}/over_{words}" in metrics]
    # Of networks that learned nothing, and nothing that is true.
    alike = [_value(metrics, f"{name}/{other}") for other in ("untrained", SHUFFLED) if f"{name}/{other}" in metrics]
    return all(_above(metrics, gain) for gain in against) and all(value < _ALIKE for value in alike)


def _sentence(metrics: dict[str, Estimate], ranking: Sequence[str], believed: Sequence[str]) -> str:
    parts = []
    if believed:
        best = believed[0]
        own, random = (_value(metrics, f"{name}/comprehensiveness") for name in (best, RANDOM))
        times = _value(metrics, f"{best}/times_random")
        more = f", {times:.1f} times as far as random ones do" if 1 < times < 100 else f", random ones by {random:z.2f}"
        parts.append(
            f"Explain with {words_for(best)}: without the events that it names first "
            f"the score falls by {own:.2f}{more}."
        )
        doubted = [words_for(name) for name in ranking if name not in believed and name not in ATTENTION]
        if doubted:
            parts.append(
                f"Do not use {', '.join(doubted)}: no better than the controls, or the same whatever was learned."
            )
    else:
        parts.append(
            "No explainer tried here is better than both random order and a network that learned nothing true: "
            "explain with none."
        )
    if believed and _value(metrics, f"{believed[0]}/seeds") < _STABLE:
        alike = _value(metrics, f"{believed[0]}/seeds")
        parts.append(f"Networks of other seeds are explained otherwise (rank correlation {alike:.2f}).")
    parts += _on_attention(metrics, ranking, believed)
    if "planted/share" in metrics and believed:
        found = max(believed, key=lambda name: _value(metrics, f"{name}/recovery_auprc"))
        parts.append(
            f"Of the planted truth {words_for(found)} recovers an area under precision and recall of "
            f"{_value(metrics, f'{found}/recovery_auprc'):.2f} "
            f"(random {_value(metrics, f'{RANDOM}/recovery_auprc'):.2f})."
        )
    return " ".join(parts)


def _on_attention(metrics: dict[str, Estimate], ranking: Sequence[str], believed: Sequence[str]) -> list[str]:
    name = ATTENTION[0]
    if name not in ranking:
        return []
    if not _above(metrics, f"{name}/over_random"):
        text = "Attention here is no better than random: do not use it to explain"
    elif name not in believed:
        text = "Attention here is no better than that of a network that learned nothing true: do not use it to explain"
    else:
        own, best = (_value(metrics, f"{chosen}/comprehensiveness") for chosen in (name, ranking[0]))
        text = f"Attention here is better than random, with {own / best:.0%} of the effect of the best explainer"
    even = _value(metrics, f"{name}/evenness")
    if even > _EVEN:
        text += f" (its weights are nearly even: {even:.0%} of the largest entropy)"
    tests = tell_tests(metrics)
    if not tests and _value(metrics, f"{name}/adversary") > _OTHER:
        text += "; quite other weights give the same scores"
    sentences = [f"{text}.", *([tests] if tests else [])]
    shared = "attention_by_event"
    if shared in believed and name not in believed:
        share = _value(metrics, f"{shared}/comprehensiveness") / _value(metrics, f"{ranking[0]}/comprehensiveness")
        sentences.append(f"By single events it has {share:.0%} of the best explainer's effect.")
    return sentences
