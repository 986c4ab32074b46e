"""What the words of `ehrseq train -m` come to."""

from pathlib import Path

import pytest

from ehrseq.config.space import Choice, Interval
from ehrseq.config.sweep import read_plan
from ehrseq.errors import ConfigError


def test_words_of_hydra_become_a_space() -> None:
    plan = read_plan(
        [
            "sweep=optuna", "model=lstm,gru", "optim.optimizer.lr=tag(log,interval(1e-4,1e-2))", "trainer.max_epochs=5",
            "model.encoder.hidden_size=int(interval(8,64))", "sweep.objectives=[tuning/auroc,model/weights]",
            "sweep.pruner=none", "sweep.sampler_options.multivariate=true", "hydra.launcher.n_jobs=2", "seed=1,2",
        ]
    )  # fmt: skip
    assert plan.space == (
        Choice("model", ("lstm", "gru")),
        Interval("optim.optimizer.lr", 1e-4, 1e-2, log=True),
        Interval("model.encoder.hidden_size", 8, 64, whole=True),
    )
    assert plan.fixed == ("trainer.max_epochs=5",)
    assert plan.repeats == (("seed=1",), ("seed=2",))
    assert plan.objectives == (("tuning/auroc", "maximize"), ("model/weights", "minimize"))
    assert plan.launcher_words == ("hydra.launcher.n_jobs=2",)
    assert plan.sweep.sampler_options == {"multivariate": True}
    assert (plan.trials, plan.base.trainer.max_epochs, plan.sweep.evaluate) == (30, 5, "best")
    assert plan.words({"model": "gru"}, 1) == ("trainer.max_epochs=5", "model=gru", "seed=2")


def test_a_file_of_ones_own_is_a_search_and_words_count_more(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "defaults: [optuna, _self_]\ntrials: 9\nsearch:\n"
        "  model: [lstm, gru, rnn]\n"
        "  optim.optimizer.lr: {low: 1e-4, high: 1e-2, log: true}\n"
        "  model.encoder.num_layers: {choices: [1, 2], when: {model: lstm}}\n"
    )
    plan = read_plan(["sweep=mine", "model=gru", "optim.optimizer.lr=1e-3,1e-2"], tmp_path)
    assert plan.space == (
        Choice("optim.optimizer.lr", ("0.001", "0.01")),
        Choice("model.encoder.num_layers", ("1", "2"), {"model": ("lstm",)}),
    )
    assert plan.trials == 9
    # Known by what it is, not by how many trials it has or where it writes; another space is another sweep.
    again = read_plan(
        ["sweep=mine", "model=gru", "optim.optimizer.lr=1e-3,1e-2", "sweep.trials=20", "paths.runs=x"], tmp_path
    )
    assert again.id == plan.id
    assert read_plan(["sweep=mine", "model=gru"], tmp_path).id != plan.id


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=lstm,gur"], "model=gur: no such option; did you mean 'gru'?"),
        (["sweep.trails=3"], "unknown key 'sweep.trails'; did you mean 'trials'?"),
        (["sweep=optuna", "seed=1,2"], "nothing varies"),
        (["sweep=optuna", "model=lstm,gru", "sweep.objectives=[tuning/auc]"], "did you mean 'tuning/auroc'?"),
        (["sweep=optuna", "model=lstm,gru", "sweep.objectives=[held_out/auroc]"], "sweep.objectives"),
        (["sweep=optuna", "model=lstm,gru", "sweep.objectives=[tuning/auroc,model/weights]"], "set sweep.pruner=none"),
        (["optim.optimizer.lr=tag(log,interval(0,1))"], "a logarithmic range begins above 0"),
        (["sweep.jobs=0", "seed=1,2"], "sweep.jobs=0"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_plan(words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for words, extra in ((["sweep=optuna"], "sweep"), (["sweep.launcher=joblib"], "joblib")):
        with pytest.raises(ConfigError, match=rf"needs an extra: pip install 'ehrseq\[{extra}\]'"):
            read_plan([*words, "model=lstm,gru"])
