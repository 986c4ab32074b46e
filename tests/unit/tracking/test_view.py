"""The saved view of an experiment's table of runs."""

import json

from ehrseq.tracking.view import VIEW_TAG, page_of_experiment, view_tags


def test_a_view_has_the_columns_asked_for_and_keeps_those_it_has() -> None:
    first = view_tags(["held_out/auroc", "held_out/auprc"], None, 5)
    assert first["mlflow.experiment.primaryMetric.name"] == "held_out/auroc"
    state = json.loads(json.loads(first[VIEW_TAG])["state"])
    assert state["selectedColumns"][:3] == ["metrics.`held_out/auroc`", "metrics.`held_out/auprc`", "params.`seed`"]
    assert view_tags(["held_out/auprc"], first[VIEW_TAG], 6) == {}  # all there
    second = view_tags(["held_out/r2"], first[VIEW_TAG], 6)
    assert set(second) == {VIEW_TAG}
    columns = json.loads(json.loads(second[VIEW_TAG])["state"])
    assert columns["selectedColumns"] == [*state["selectedColumns"], "metrics.`held_out/r2`"]
    # Metrics stand together, whenever they came.
    kinds = [column.split(".")[0] for column in columns["columnOrder"][3:]]
    assert kinds == ["metrics"] * 3 + ["params"] + ["tags"] * 3


def test_a_view_of_another_form_is_made_anew() -> None:
    for known in ("no json", "{}", '{"state": "3"}', "[]"):
        tags = view_tags(["held_out/auroc"], known, 5)
        assert "held_out/auroc" in tags[VIEW_TAG]


def test_the_address_names_the_view() -> None:
    address = page_of_experiment("http://127.0.0.1:5000", "3")
    assert address.endswith("/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=ehrseq")
