"""Every option of every group can be composed and built, and every mistake ends in one line with a suggestion."""

import inspect
from pathlib import Path

import pytest
import yaml

from ehrseq.config.components import COMPONENTS
from ehrseq.config.load import (
    check,
    compose,
    dump_settings,
    groups,
    load_settings,
    of_one_run,
    overlay,
    override_keys,
    read_settings,
)
from ehrseq.config.model import Model, Trees
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError
from ehrseq.sources.base import Source
from ehrseq.tasks import LabelMaker
from ehrseq.workflows.build import build_booster, build_label_maker, build_model, build_optimizer, build_source, resolve

REPOSITORY = Path(__file__).parent.parent.parent
OPTIONS = [(group, option) for group, options in groups().items() for option in options]
# Arguments that are counted from the data, not configured.
COUNTED = {"num_features", "num_statics", "num_codes", "outputs", "input_size", "bidirectional of pooling", "target"}


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=["=".join(item) for item in OPTIONS])
def test_option_composes_and_builds(group: str, option: str) -> None:
    # A forecast asks for outputs at every step, a site for its name.
    needs = {
        "split=site": ["split.sites=ICUType", "split.site=medical"],
        "trainer=fsdp": ["optim.weight_averaging=null"],
        "task=forecast": ["outputs=steps", "explain=none", "model/pooling=last"],
    }
    settings = load_settings([f"{group}={option}", *needs.get(f"{group}={option}", [])])
    assert isinstance(build_source(settings.source), Source)
    assert isinstance(build_label_maker(settings.task), LabelMaker)
    if isinstance(settings.model, Trees):
        assert build_booster(settings.model, settings.task.target).n_estimators > 0
        return
    model = build_model(settings.model, settings.task.target, settings.loss, num_features=7, num_statics=3)
    optimizer = build_optimizer(settings.optim)(model.parameters())
    assert sum(len(part["params"]) for part in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("target", sorted(COMPONENTS))
def test_schema_agrees_with_constructor(target: str) -> None:
    schema = COMPONENTS[target]
    parameters = inspect.signature(resolve(target, "here")).parameters
    fields = {name: field for name, field in schema.model_fields.items() if name != "target"}
    assert set(fields) <= set(parameters)
    if not target.startswith("ehrseq."):
        return  # torch's own optimisers have more arguments than we offer
    pooling = {"bidirectional"} if target.endswith("Pooling") else set()
    assert set(parameters) - set(fields) <= COUNTED | pooling | {"labelled"}
    for name, field in fields.items():
        if not field.is_required():
            assert parameters[name].default == field.default, name


def test_params_yaml_is_the_composed_configuration() -> None:
    committed = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    assert committed == compose()
    assert read_settings(REPOSITORY / "params.yaml") == load_settings()
    assert yaml.safe_load(dump_settings(load_settings())) == committed


def test_params_yaml_is_what_dvc_composes(tmp_path: Path) -> None:
    hydra = pytest.importorskip("dvc.utils.hydra", reason="DVC is not installed")
    target = tmp_path / "params.yaml"
    hydra.compose_and_dump(str(target), str(REPOSITORY / "conf"), None, "config", "", [])
    # What is of a sweep is none of a run's; stages leave it out as well.
    assert of_one_run(yaml.safe_load(target.read_text())) == yaml.safe_load((REPOSITORY / "params.yaml").read_text())


MISTAKES = [
    (["modle=gru"], "unknown key 'modle'; did you mean 'model'?"),
    (["model=gur"], "model=gur: no such option; did you mean 'gru'?"),
    (["model/pooling=atention"], "model/pooling=atention: no such option; did you mean 'attention'?"),
    (["model=gbm", "model.booster.num_leafs=3"], "unknown key 'model.booster.num_leafs'; did you mean 'num_leaves'?"),
    (["model=gbm", "+model.sumary=3"], "unknown key 'model.sumary'; did you mean 'summary'?"),
    (["+model.hed=3"], "unknown key 'model.hed'; did you mean 'head'?"),
    (["model=gbm", "model.summary.max_features=0"], "model.summary.max_features=0 is not possible: input should be"),
    (["model=gbm", "explain=quick"], "model=gbm is not a network, which explanations are of; use explain=none"),
    (["model.encoder.hiden_size=3"], "unknown key 'model.encoder.hiden_size'; did you mean 'hidden_size'?"),
    (["+model.encoder.hiden_size=3"], "unknown key 'model.encoder.hiden_size'; did you mean 'hidden_size'?"),
    (["source=physionet2012", "source.pth=x"], "unknown key 'source.pth'; did you mean 'path'?"),
    (
        ["tracking=server", "tracking.uri=https://me:word@mlflow.hospital"],
        "tracking.uri: holds a password, which would be kept with the run; leave it out",
    ),
    (["tracking.uri='postgresql://me@host/mlflow?password=word'"], "tracking.uri: holds a password"),
    (["trainer.max_epoch=3"], "unknown key 'trainer.max_epoch'; did you mean 'max_epochs'?"),
    (["representation.aggregate=lst"], "representation.aggregate=lst is not possible; did you mean 'last'?"),
    (["trainer.accelerator=gpus"], "trainer.accelerator=gpus is not possible; did you mean 'gpu'?"),
    (
        ["model.encoder.hidden_size=abc"],
        "model.encoder.hidden_size=abc is not possible: input should be a valid integer",
    ),
    (["trainer.max_epochs=0"], "trainer.max_epochs=0 is not possible: input should be greater than 0"),
    (["split.tuning=0.9"], "split: tuning (0.9) + held_out (0.2) leave no subjects for train"),
    (["split.folds=3", "split.fold=3"], "split: fold is 3, but with folds=3 it is 0 to 2"),
    (["seed=1,2"], "'seed=1,2' gives several values; add -m to run them all"),
    (["gru"], "'gru' is not an override; write key=value"),
    (["~seed"], "seed is missing"),
    (
        ["task=mortality_and_stay", "+task.target.parts.stay.wieght=2"],
        "unknown key 'task.target.parts.stay.wieght'; did you mean 'weight'?",
    ),
    (
        ["task=mortality_and_stay", "+task.target.parts.stay.target.lgo=true"],
        "unknown key 'task.target.parts.stay.target.lgo'; did you mean 'log'?",
    ),
    (
        ["task=mortality_and_stay", "task.target.parts.stay.weight=-1"],
        "task.target.parts.stay.weight=-1 is not possible: input should be greater than 0",
    ),
    (
        ["task=mortality_and_stay", "+task.labels.parts.stay.dealy_hours=2"],
        "unknown key 'task.labels.parts.stay.dealy_hours'; did you mean 'delay_hours'?",
    ),
    (
        ["task=mortality_and_stay", "~task.labels.parts.stay"],
        "task.labels.parts={",
    ),
    (
        ["task=mortality_and_stay", "+task.target.parts.mortality.target.utility=sepsis2019"],
        "task.target: parts.mortality.target.utility is for a binary target alone",
    ),
    (["experiment=dmo"], "experiment=dmo: no such option; did you mean 'demo'?"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(item[0]) for item in MISTAKES])
def test_mistake_ends_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(words)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


TARGETS = [
    "os.system",
    "pandas.read_pickle",
    "builtins.open",
    "joblib.load",
    "torch.load",
    "ehrseq.nn.LSTMEncodr",
    "ehrseq.sources.nowhere.Source",
]


@pytest.mark.parametrize("target", TARGETS)
def test_targets_outside_the_list_are_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        load_settings([f"model.encoder._target_={target}"])


def test_targets_within_a_component_are_looked_at_like_any() -> None:
    key = "task.labels.parts.stay._target_"
    with pytest.raises(ConfigError, match=r"task\.labels\.parts\.stay: _target_ 'os\.system' is not allowed"):
        load_settings(["task=mortality_and_stay", f"{key}=os.system"])
    task = load_settings(["task=mortality_and_stay", "task.labels.parts.stay={_target_:torch.nn.Identity}"]).task
    with pytest.raises(ConfigError, match=r"task\.labels\.parts\.stay: torch\.nn\.Identity is not a LabelMaker"):
        build_label_maker(task)


@pytest.mark.parametrize("target", ["torch.nn.functional.os.system", "torch.optim.Nothing", "torch.nn.functional.relu"])
def test_what_a_target_resolves_to_is_looked_at(target: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder: _target_"):
        resolve(target, "model.encoder")


def test_a_class_of_the_wrong_kind_is_refused() -> None:
    settings = load_settings(["model.encoder._target_=torch.nn.Identity"])
    with pytest.raises(ConfigError, match=r"model\.encoder: torch\.nn\.Identity is not a Encoder"):
        build_model(settings.model, settings.task.target, settings.loss, 3, 1)


def test_users_can_trust_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EHRSEQ_ALLOWED_TARGETS", "collections:ourlab")
    assert resolve("collections.OrderedDict", "here").__name__ == "OrderedDict"
    settings = load_settings(["model.encoder._target_=ourlab.nets.Best", "+model.encoder.depth=3"])
    assert isinstance(settings.model, Model)
    assert settings.model.encoder.arguments()["depth"] == 3


def test_options_of_the_users_own_folder(tmp_path: Path) -> None:
    (tmp_path / "optim").mkdir()
    text = Path(REPOSITORY / "conf" / "optim" / "adam.yaml").read_text().replace("0.003", "0.5")
    (tmp_path / "optim" / "bold.yaml").write_text(text)
    assert load_settings(["optim=bold"], tmp_path).optim.optimizer.arguments()["lr"] == 0.5
    with pytest.raises(ConfigError, match="did you mean 'bold'"):
        load_settings(["optim=bald"], tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        load_settings([], tmp_path / "nowhere")


def test_yaml_that_cannot_be_read_is_one_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bad.yaml").write_text("a: 1\n  b: 2\n")
    with pytest.raises(ConfigError, match=r'not valid YAML: mapping values .* in ".*bad\.yaml", line 2, column 4'):
        load_settings(["model=bad"], tmp_path)


def test_settings_are_frozen_and_yaml_holds_no_more() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3
    assert check(settings.plain()) == settings
    assert set(Settings.model_fields) == set(compose())
    assert {"model", "model/pooling", "optim.optimizer.lr", "seed"} <= set(override_keys())


def test_a_finished_run_keeps_what_it_was_trained_with() -> None:
    base = load_settings(["model=gru", "seed=5", "evaluate.replicates=7"])
    changed = overlay(base, ["evaluate.level=0.9", "tracking=none"], None, ("evaluate", "tracking"))
    assert (changed.evaluate.level, changed.evaluate.replicates, changed.seed) == (0.9, 7, 5)
    assert changed.model == base.model
    assert not changed.tracking.enabled
    with pytest.raises(ConfigError, match=r"model=lstm: a finished run has fixed model"):
        overlay(base, ["model=lstm"], None, ("evaluate",))


FORECAST = ["task=forecast", "outputs=steps", "explain=none", "model/pooling=last"]
MISFITS = [
    (["outputs=steps"], "model.pooling AttentionPooling pools whole histories only"),
    (["outputs=steps", "explain=none", "model=retain"], "model.encoder RetainEncoder does"),
    (["outputs=steps", "explain=none", "model=event_attention"], "model.encoder EventAttentionEncoder does"),
    (["representation=events", "model=event_attention"], "EventAttentionEncoder reads representation=grid only"),
    (["explain=controls", "trainer=ddp"], "explain.controls are trained by one process; train with explain=quick"),
    (
        ["outputs=steps", "explain=none", "model/pooling=last", "model.encoder.bidirectional=true"],
        "outputs=steps needs a net that never looks ahead; model.encoder.bidirectional=true does",
    ),
    (["outputs=steps", "representation=events", "explain=none"], "outputs=steps needs representation=grid, not events"),
    (["loss.target_replication=0.5"], "loss.target_replication: model.pooling AttentionPooling"),
    (["loss.outputs_share=0.5"], "loss.outputs_share=0.5 is for outputs=steps"),
    (["task=forecast"], "a forecast target needs outputs=steps, not last"),
    (
        ["task=forecast", "outputs=steps", "representation=events"],
        "outputs=steps needs representation=grid, not events",
    ),
    (
        ["task=forecast", "outputs=steps", "model/pooling=last"],
        "a forecast target has no score that could be explained",
    ),
    (
        [*FORECAST, "model.encoder.bidirectional=true"],
        "needs a net that never looks ahead; model.encoder.bidirectional",
    ),
    ([*FORECAST, "model/pooling=attention"], "model.pooling AttentionPooling pools whole histories only"),
    ([*FORECAST, "loss.focal=2"], "loss.focal=2.0 is for binary, multiclass, multilabel targets, not forecast"),
    ([*FORECAST, "members=3"], "members=3: a forecast target has one network"),
    ([*FORECAST, "audit.shuffled_labels=true"], "a forecast target learns from no labels that could be permuted"),
    ([*FORECAST, "trainer.monitor=tuning/auroc"], "a forecast target has tuning/loss, tuning/mae"),
    ([*FORECAST, "task.target.horizon=0"], "task.target.horizon=0 is not possible: input should be greater than 0"),
    (["model=gbm", "pretrained=runs/x"], "pretrained=runs/x is for networks, not model=gbm"),
    (["model=gbm", "task=forecast"], "model=gbm learns binary, multiclass, regression targets, not forecast"),
    (["representation=events", "model=channelwise_lstm"], "ChannelwiseLSTMEncoder reads representation=grid only"),
    (["task.target.kind=regression", "loss.focal=2"], "loss.focal=2.0 is for binary, multiclass, multilabel targets"),
    (["task.target.kind=multiclass", "loss.class_weight=2"], "a multiclass target has none or balanced"),
    (
        ["model=gbm", "+task.target.edges=[3]", "task.target.kind=ordinal"],
        "model=gbm learns binary, multiclass, regression",
    ),
    (
        ["model=gbm", "task.target.kind=multilabel"],
        "model=gbm learns binary, multiclass, regression targets, not multi",
    ),
    (["model=gbm", "loss.focal=2"], "loss.focal=2.0 is for networks; model=gbm takes loss.class_weight alone"),
    (["model=gbm", "loss.logit_adjustment=1"], "loss.logit_adjustment=1.0 is for networks"),
    (["model=gbm", "loss.label_smoothing=0.1"], "loss.label_smoothing=0.1 is for networks"),
    (["model=gbm", "loss.target_replication=0.5"], "loss.target_replication=0.5 is for networks"),
    (["model=gbm", "task.target.kind=multiclass", "loss.class_weight=2"], "a multiclass target has none or balanced"),
    (["model=gbm", "task.target.kind=regression", "loss.class_weight=2"], "loss.class_weight=2.0 is for binary"),
    (["model=gbm", "trainer.monitor=tuning/r2"], "a binary target has tuning/loss, tuning/auroc, tuning/auprc"),
    (["+task.target.utility=sepsis"], "task.target.utility=sepsis is not possible; did you mean 'sepsis2019'?"),
    (["task=mortality_and_stay", "model=gbm"], "model=gbm learns binary, multiclass, regression targets, not several"),
    (
        ["task=mortality_and_stay", "trainer.monitor=tuning/auroc"],
        "a several target has tuning/loss, tuning/mortality_auroc, tuning/mortality_auprc, tuning/stay_mae",
    ),
    (
        ["task=mortality_and_stay", "task.target.parts.mortality.target.kind=regression", "loss.focal=2"],
        "loss.focal=2.0 is for binary, multiclass, multilabel targets, not regression",
    ),
    (["task=sepsis", "task.target.kind=regression"], "unknown key 'task.target.utility'; known: kind, log"),
    (
        ["task.target.kind=regression", "trainer.monitor=tuning/auroc"],
        "a regression target has tuning/loss",
    ),
]


def test_outputs_at_every_step_are_nothing_to_trees() -> None:
    settings = load_settings(["model=gbm", "outputs=steps", "representation=events"])
    assert (settings.outputs, settings.explain.enabled) == ("steps", False)


def test_a_utility_is_written_down_only_where_it_is_asked_for() -> None:
    plain = load_settings().task.target.plain()
    assert plain == {"kind": "binary"}
    sepsis = load_settings(["source=physionet2019", "task=sepsis"])
    assert sepsis.task.target.plain() == {"kind": "binary", "utility": "sepsis2019"}
    assert check(yaml.safe_load(dump_settings(sepsis))) == sepsis


@pytest.mark.parametrize(("words", "message"), MISFITS, ids=lambda value: str(value)[:50])
def test_choices_that_exclude_each_other_are_refused_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_of_an_earlier_version_is_opened_with_defaults(tmp_path: Path) -> None:
    plain = load_settings(["model=gru", "loader.batch_size=32"]).plain()
    del plain["compare"], plain["trainer"]["profile"], plain["loss"]["focal"], plain["resume"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    assert read_settings(path, of_run=True) == load_settings(["model=gru", "loader.batch_size=32"])
    with pytest.raises(ConfigError, match="is missing"):
        read_settings(path)
    # Of the network nothing is filled in.
    del plain["model"]["hidden_dropout"]
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(ConfigError, match="hidden_dropout"):
        read_settings(path, of_run=True)
