"""Which metrics are better the higher, and which the lower."""

from typing import Literal

_HIGHER = {
    *("auroc", "auprc", "accuracy", "balanced_accuracy", "macro_auroc", "macro_auprc", "r2", "kappa", "c_index"),
    *("skill", "utility", "net_benefit"),
}
_LOWER = {"brier", "log_loss", "ece", "mae", "rmse", "integrated_brier", "crps", "ici"}


def better(name: str) -> Literal["higher", "lower"] | None:
    """Whether a metric is better the `higher` or the `lower`; None where neither is, or where it is not known.

    Names may have a part in front (`stay_mae`) or a label behind (`auroc_sepsis`).

    >>> better("auroc_sepsis"), better("stay_mae"), better("prevalence")
    ('higher', 'lower', None)
    """
    words = name.split("_")
    spans = ["_".join(words[start:stop]) for start in range(len(words)) for stop in range(start + 1, len(words) + 1)]
    if any(span in _HIGHER for span in spans):
        return "higher"
    return "lower" if any(span in _LOWER for span in spans) else None
