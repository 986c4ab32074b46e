"""An ensemble over folds: members learn from other parts, and nobody is predicted by what has learned from them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.errors import ConfigError, DataError
from ehrseq.workflows import experiment, predict, prepare
from ehrseq.workflows.member_folds import MemberFolds
from ehrseq.workflows.runs import open_run
from ehrseq.workflows.scorers import score_members

MEMBERS = 3
WORDS = (
    *("source.n_subjects=400", "explain=none", "tracking=none", "evaluate.replicates=0", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=2", f"members={MEMBERS}", "members_by=folds"),
)


def test_subjects_are_dealt_out_once_with_their_share_of_both_outcomes(tmp_path: Path) -> None:
    store = prepare.run(load_settings([*WORDS, f"paths.data={tmp_path}"])).open()
    folds = MemberFolds(MEMBERS, 0)
    fold = folds.of_samples(store)
    held_out = store.samples("held_out")
    assert (fold[held_out] == -1).all()
    seen = np.flatnonzero(fold >= 0)
    assert len(seen) + len(held_out) == len(fold)
    for number in range(MEMBERS):
        view = folds.store_of(store, number)
        assert np.array_equal(view.samples("held_out"), held_out)
        assert np.array_equal(view.samples("tuning"), np.flatnonzero(fold == number))
        assert not set(view.subjects_of(view.samples("train"))) & set(view.subjects_of(view.samples("tuning")))
        assert np.array_equal(np.union1d(view.samples("train"), view.samples("tuning")), seen)
    counts = np.bincount(fold[seen])
    positive = np.bincount(fold[seen], weights=store.arrays.sample_label[seen, 0])
    assert counts.max() - counts.min() <= 2
    assert positive.max() - positive.min() <= 1
    assert not np.array_equal(MemberFolds(MEMBERS, 1).of_samples(store), fold)
    with pytest.raises(DataError, match=r"1000 members, but too few subjects to learn from for fold \d+; take fewer"):
        MemberFolds(1000, 0).store_of(store, 0)


@pytest.mark.parametrize("model", ["lstm", "gbm"])
def test_who_was_learned_from_is_predicted_by_the_member_that_has_not(model: str, tmp_path: Path) -> None:
    settings = load_settings([*WORDS, f"model={model}", f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path}"])
    folder = experiment.run(settings).folder
    run = open_run(folder)
    store = prepare.run(settings).open()
    own = [run._member(number) for number in range(MEMBERS)]
    held_out, tuning = store.samples("held_out"), store.samples("tuning")
    scorer = run.scorer()
    each = np.stack([member.score(store, held_out, settings) for member in own])
    np.testing.assert_allclose(scorer.score(store, held_out, settings), each.mean(axis=0), atol=1e-12)
    fold = MemberFolds(MEMBERS, settings.split.seed).of_samples(store)[tuning]
    apart = np.stack([member.score(store, tuning, settings) for member in own])
    np.testing.assert_allclose(scorer.score(store, tuning, settings), apart[fold, np.arange(len(tuning))], atol=1e-6)
    assert np.abs(apart - apart[0]).max() > 1e-3
    table = pl.read_parquet(folder / "evaluate" / "predictions.parquet")
    assert table["spread"].null_count() == 0
    # On tuning there is one prediction of each, and so no spread.
    assert score_members(scorer, store, tuning, settings)[1] is None
    # Of new subjects no outcome is known, and all members are asked.
    predict.run(settings, run, tmp_path / "told.parquet")
    told = pl.read_parquet(tmp_path / "told.parquet").filter(pl.col("subject_id").is_in(table["subject_id"].to_list()))
    both = table.sort("subject_id")["probability"], told.sort("subject_id")["probability"]
    np.testing.assert_allclose(*both, atol=1e-6)


def test_one_member_has_no_folds() -> None:
    with pytest.raises(ConfigError, match="members_by=folds: one member has no other folds to learn from"):
        load_settings(["members_by=folds"])
