"""What figures and columns of a report are called, for people who have not seen one before."""

from collections.abc import Mapping
from typing import Any

_CAPTIONS = {
    "roc": "Sensitivity against false alarms at every threshold; the marks are the thresholds chosen on tuning.",
    "precision_recall": "How many of those alerted have the outcome (precision), against how many of all outcomes are "
    "found (recall). A coin stays on the dashed line.",
    "calibration": "Observed share with the outcome, among predictions of similar risk. On the diagonal, risks are "
    "what they say. Below: how risks are spread.",
    "usefulness": "True alerts less false ones, at the exchange rate of the threshold. Where the model lies above both "
    "other lines, it helps. On the right, of a single outcome: what acting on it costs.",
    "alarms": "Left: events foretold in time, against how often it sounds; the dashed line is the chosen rule. "
    "Right: how many alarms are true.",
    "groups": "Each group with its interval, beside everybody (dashed).",
    "over_time": "By calendar time, where dates are known, and by length of history. Dashed: everybody.",
    "cohort": "Left: from records to predictions. Right: who has each measurement at least once before the prediction.",
    "verdict": "Which explanations can be believed: how far the score falls without what they name first, beside "
    "random order and networks that learned nothing, or nothing true.",
    "importance": "What the predictions rest on, by code and by time.",
    "dependence": "How the contribution of a measurement depends on its value.",
    "cohort_attention": "Where the attention lies, by time before the prediction and predicted risk.",
}
_COLUMNS = {
    "at_budget": "alert budget",
    "at_sensitivity": "fixed sensitivity",
    "at_utility": "best utility",
    "at_youden": "Youden",
    "alert_rate": "share that alerts",
    "alarm_precision": "alarms that are true",
    "alarms_per_day": "sounding alarms a patient-day",
    "alarms_per_day_unsilenced": "without silencing",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "brier": "Brier score",
    "c_index": "C-index",
    "calibration_gap": "mean risk - observed",
    "ece": "ECE",
    "events_a_subject": "times each",
    "event_recall": "events caught in time",
    "f1": "F1",
    "first_alarm_precision": "first alarms that are true",
    "lead_hours": "hours ahead, mean",
    "lift": "lift (precision / prevalence)",
    "mcc": "MCC",
    "macro_auprc": "macro AUPRC",
    "macro_auroc": "macro AUROC",
    "mae": "MAE",
    "nne": "number needed to evaluate",
    "npv": "negative predictive value (NPV)",
    "ppv": "precision (PPV)",
    "r2": "R²",
}


def kept_in_words(training: Mapping[str, Any]) -> str:
    """Which epoch's weights a training kept, or how many trees; by the facts of its manifest."""
    if training.get("keep") == "last":
        return f"last epoch, {training.get('best_epoch')}"
    return f"best epoch, {training.get('best_epoch')} of {training.get('epochs')}, by {training.get('monitor')}"


def caption_of(figure: str) -> str:
    """What a figure shows; of one of several targets, with the target's name in front."""
    for name, words in _CAPTIONS.items():
        if figure == name:
            return words
        if figure.endswith(f"_{name}"):
            return f"{figure.removesuffix(f'_{name}')}: {words}"
    return figure.replace("_", " ")


def column_in_words(column: str) -> str:
    """The heading of a column, or a rule by which a threshold is chosen."""
    if column.startswith("event_recall_"):
        return f"caught {column.removeprefix('event_recall_').removesuffix('h')} h before"
    return _COLUMNS.get(column, column.replace("_", " "))


def model_in_words(config: Mapping[str, Any]) -> str:
    """The name of a run's model, who taught it, what it learned beside its target and what it is averaged with."""
    name: str = config["model"]["name"]
    if "booster" in config["model"]:
        return name
    beside = ", ".join(part.replace("_", " ") for part in config["task"].get("auxiliary") or {})
    taught = ", taught by trees" if config.get("teacher") is not None else ""
    blend = config.get("blend")
    blended = f", averaged with trees (weight {blend['weight']:g})" if blend is not None else ""
    return f"{name}{taught}{f', learned beside: {beside}' if beside else ''}{blended}"
