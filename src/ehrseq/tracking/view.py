"""How MLflow shows an experiment: a saved view of the table of runs, with the columns that matter.

MLflow keeps saved views as tags of the experiment. Everybody finds this one under Views, and `ehrseq ui` prints the
address that opens it; MLflow versions that do not know the form show their own columns.
"""

import json
from collections.abc import Sequence
from typing import Any

VIEW, VIEW_NAME = "ehrseq", "Results"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_PRIMARY = "mlflow.experiment.primaryMetric.name"
_LONGEST = 60  # columns; MLflow's tags are limited
_RUN_NAME = "attributes.`Run Name`"
_NAME_WIDTH = 250  # pixels


def view_tags(metrics: Sequence[str], known: str | None, created: int) -> dict[str, str]:
    """The tags of an experiment whose table shows these metrics, the seed, the model and the task.

    Args:
        metrics: Names of metrics, the most important first.
        known: The tag as it is; the columns that it has stay.
        created: Milliseconds since 1970, for a new view.
    """
    wanted = [
        *(f"metrics.`{name}`" for name in metrics),
        "params.`seed`",
        *(f"tags.`ehrseq.{name}`" for name in ("model", "task", "source")),
    ]
    old = _columns(known)
    columns = [*old, *(column for column in wanted if column not in old)][:_LONGEST]
    if known is not None and columns == old:
        return {}
    widths = {_RUN_NAME: _NAME_WIDTH, **{column: _width(column) for column in columns}}
    state: dict[str, Any] = {
        "selectedColumns": columns,
        # MLflow's own columns come first; widths hold for columns that have a place.
        "columnOrder": [_RUN_NAME, "runDateAndNestInfo", "duration", *sorted(columns, key=_kind)],
        "columnWidths": widths,
    }
    view = {"name": VIEW_NAME, "createdAt": created, "updatedAt": created, "state": json.dumps(state)}
    tags = {VIEW_TAG: json.dumps(view)}
    # What MLflow's charts of several runs begin with.
    return tags if known is not None or not metrics else tags | {_PRIMARY: metrics[0]}


def page_of_experiment(server: str, experiment_id: str) -> str:
    """The address of an experiment's table of runs, in that view, among the pages for trained models."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _width(column: str) -> int:
    """Pixels in which the name of a column can be read."""
    return max(90, 36 + 6 * len(column.partition("`")[2].rstrip("`")))


def _kind(column: str) -> int:
    """Metrics, parameters and tags each stand under a heading of their own."""
    return ("metrics", "params", "tags").index(column.partition(".")[0])


def _columns(known: str | None) -> list[str]:
    """The columns of a view; none where it is not of a form that is known here."""
    try:
        columns = json.loads(json.loads(known or "")["state"])["selectedColumns"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(column) for column in columns if str(column).startswith(("metrics.", "params.", "tags."))]
