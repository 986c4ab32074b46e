"""Which choices go together: what the parts of a configuration ask of each other, checked before anything is read."""

from typing import TYPE_CHECKING

from ehrseq.config.targets import SeveralTarget, watched

if TYPE_CHECKING:
    from ehrseq.config.model import Model, Trees
    from ehrseq.config.schema import Loss, Settings

_CLASSIFIES = ("binary", "multiclass", "multilabel")
_TREES_LEARN = ("binary", "multiclass", "regression")
_AIDS = ("attention_entropy", "attention_gradient", "attention_consistency")
# What the losses of classes can be told, and what says nothing.
PLAIN_LOSS = {"class_weight": "none", "focal": 0.0, "logit_adjustment": 0.0, "label_smoothing": 0.0}


def find_misfit(settings: "Settings") -> str | None:
    """The first two choices that exclude each other, in a line that says what would do; None if all go together."""
    from ehrseq.config.model import Trees

    model = settings.model
    if isinstance(model, Trees):
        return (
            _trees(settings, model)
            or _members(settings)
            or _monitor(settings)
            or _loss(settings)
            or _recalibration(settings)
        )
    return (
        _recalibration(settings)
        or _monitor(settings)
        or _loss(settings)
        or _teacher(settings)
        or _blend(settings)
        or _forecast(settings)
        or _members(settings)
        or _representation(settings, model)
        or _steps(settings, model)
        or _attention(settings, model)
        or _explanation(settings)
        or _processes(settings)
    )


def _trees(settings: "Settings", model: "Trees") -> str | None:
    """What trees cannot do; `outputs` is nothing to them, since each history is summarised by itself."""
    kind, loss = settings.task.target.kind, settings.loss
    if kind not in _TREES_LEARN:
        return f"model={model.name} learns {', '.join(_TREES_LEARN)} targets, not {kind}"
    for name in ("focal", "logit_adjustment", "label_smoothing", "target_replication", *_AIDS):
        if value := getattr(loss, name):
            return f"loss.{name}={value} is for networks; model={model.name} takes loss.class_weight alone"
    if settings.pretrained is not None:
        return f"pretrained={settings.pretrained} is for networks, not model={model.name}"
    if settings.trainer.processes > 1:
        return f"model={model.name} grows in one process; use trainer.devices=1"
    if settings.blend is not None:
        return f"blend=trees mixes trees into a network, and model={model.name} is trees already; use blend=none"
    if settings.explain.enabled:
        return f"model={model.name} is not a network, which explanations are of; use explain=none"
    return None


def _monitor(settings: "Settings") -> str | None:
    target = settings.task.target
    allowed = ["tuning/loss", *(f"tuning/{name}" for name in watched(target))]
    if settings.trainer.monitor in allowed:
        return None
    return f"trainer.monitor={settings.trainer.monitor}: a {target.kind} target has {', '.join(allowed)}"


def _recalibration(settings: "Settings") -> str | None:
    target, method = settings.task.target, settings.recalibration
    kinds = [part.target.kind for part in target.parts.values()] if isinstance(target, SeveralTarget) else [target.kind]
    if method == "none" or {"binary", "multilabel"} & set(kinds):
        return None
    if "multiclass" in kinds and method == "temperature":
        return None
    return (
        f"recalibration={method} mends risks of yes or no (temperature also those of classes), not those of a "
        f"{target.kind} target; use recalibration=none"
    )


def _loss(settings: "Settings") -> str | None:
    target, loss = settings.task.target, settings.loss
    kinds = [part.target.kind for part in target.parts.values()] if isinstance(target, SeveralTarget) else [target.kind]
    unused = [name for name in PLAIN_LOSS if all(name in unused_by(kind, loss) for kind in kinds)]
    if not unused:
        return None
    name, value = unused[0], getattr(loss, unused[0])
    if "multiclass" in kinds:
        return f"loss.{name}={value:g}: a multiclass target has none or balanced"
    return f"loss.{name}={value} is for {', '.join(_CLASSIFIES)} targets, not {', '.join(dict.fromkeys(kinds))}"


def _teacher(settings: "Settings") -> str | None:
    """What trees can tell a network of."""
    if settings.teacher is None:
        return None
    target = settings.task.target
    kind = target.parts[target.first].target.kind if isinstance(target, SeveralTarget) else target.kind
    if kind != "binary":
        return f"teacher=trees tells risks of a binary target, not of a {kind} one; use teacher=none"
    if settings.loss.focal:
        return f"loss.focal={settings.loss.focal}: teacher=trees tells risks, not a yes or no; use teacher=none"
    if settings.teacher.grown_on == "all" and not settings.teacher.copies.number:
        return (
            "teacher.grown_on=all: of what trees have grown on they say little more than the outcome; give "
            "teacher.copies.number=15 or so, of which they tell, or teacher.grown_on=others"
        )
    if settings.teacher.other is not None and settings.teacher.repeats == 1:
        return "teacher.repeats=1: teacher.other has every second repeat; give two or more, or teacher.other=null"
    return None


def _blend(settings: "Settings") -> str | None:
    """What trees can tell beside a network."""
    kind = settings.task.target.kind
    if settings.blend is None or kind in _TREES_LEARN:
        return None
    return f"blend=trees learns {', '.join(_TREES_LEARN)} targets, not {kind}; use blend=none"


def unused_by(kind: str, loss: "Loss") -> list[str]:
    """The options of a loss that are set and that a kind of target has no use for."""
    given = [name for name, plain in PLAIN_LOSS.items() if getattr(loss, name) != plain]
    if kind not in _CLASSIFIES:
        return given
    is_number = kind == "multiclass" and not isinstance(loss.class_weight, str)
    return ["class_weight"] if is_number else []


def _forecast(settings: "Settings") -> str | None:
    """What forecasts ask for; `_steps` says what outputs at every step ask for."""
    if settings.task.target.kind != "forecast":
        return None
    if settings.outputs != "steps":
        return f"a forecast target needs outputs=steps, not {settings.outputs}"
    if settings.task.auxiliary:
        return f"task.auxiliary ({', '.join(settings.task.auxiliary)}): a forecast target learns from no labels"
    if settings.members > 1:
        return f"members={settings.members}: a forecast target has one network; use members=1"
    if settings.audit.shuffled_labels:
        return "audit.shuffled_labels=true: a forecast target learns from no labels that could be permuted"
    return None


def _members(settings: "Settings") -> str | None:
    if settings.members_by == "folds" and settings.members == 1:
        return "members_by=folds: one member has no other folds to learn from; use members=5, or members_by=seeds"
    return None


def _representation(settings: "Settings", model: "Model") -> str | None:
    name = settings.representation.name
    blocks = ("embedding", "encoder", "summary", "next_values")
    for key, part in [(key, getattr(model, key)) for key in blocks]:
        if part is not None and part.grid_only and name != "grid":
            short = part.target.rpartition(".")[2]
            return f"representation={name}: model.{key} {short} reads representation=grid only"
    return None


def _steps(settings: "Settings", model: "Model") -> str | None:
    if settings.outputs != "steps" and settings.loss.outputs_share < 1:
        return f"loss.outputs_share={settings.loss.outputs_share:g} is for outputs=steps; else a history has one output"
    if settings.outputs != "steps" and not settings.loss.target_replication:
        return None
    asks = "outputs=steps" if settings.outputs == "steps" else "loss.target_replication"
    if settings.outputs == "steps" and settings.loss.target_replication:
        return "loss.target_replication is for outputs=last; with outputs=steps every step has an outcome of its own"
    if settings.outputs == "steps" and settings.representation.name != "grid":
        return f"outputs=steps needs representation=grid, not {settings.representation.name}"
    if later := model.encoder.looks_ahead():
        return f"{asks} needs a net that never looks ahead; model.encoder{later} does"
    if not model.pooling.at_steps:
        short = model.pooling.target.rpartition(".")[2]
        return f"{asks}: model.pooling {short} pools whole histories only; use model/pooling=last, mean, max or sum"
    return None


def _attention(settings: "Settings", model: "Model") -> str | None:
    """What the training aids of attention ask for."""
    given = [name for name in _AIDS if getattr(settings.loss, name)]
    if not given:
        return None
    if settings.outputs == "steps" or settings.loss.target_replication:
        return f"loss.{given[0]} is for outputs=last without loss.target_replication"
    if not (model.pooling.gives_attention or model.encoder.gives_attention):
        return f"loss.{given[0]}: this model has no attention; use model/pooling=attention"
    if settings.loss.attention_gradient and settings.representation.name != "grid":
        return f"loss.attention_gradient needs representation=grid, not {settings.representation.name}"
    return None


def _explanation(settings: "Settings") -> str | None:
    if not settings.explain.enabled:
        return None
    if settings.task.target.kind == "forecast":
        return "a forecast target has no score that could be explained; use explain=none"
    if settings.explain.controls.wanted and settings.trainer.processes > 1:
        return (
            "explain.controls are trained by one process; train with explain=quick, and afterwards "
            "`ehrseq explain run=... explain=controls trainer.devices=1 trainer.nodes=1`"
        )
    return None


def _processes(settings: "Settings") -> str | None:
    trainer, size = settings.trainer, settings.loader.batch_size
    if trainer.precision == "16-mixed" and trainer.gradient_clip and settings.optim.optimizer.arguments().get("fused"):
        return "trainer.precision=16-mixed clips gradients without optim.optimizer.fused only; set it to false"
    if size % (trainer.processes * trainer.accumulate):
        parts = f"{trainer.processes} processes" + (f" x {trainer.accumulate} parts" if trainer.accumulate > 1 else "")
        return f"loader.batch_size={size} is the batch of one optimiser step: {parts} cannot share it evenly"
    if trainer.strategy == "fsdp" and trainer.processes > 1:
        if settings.optim.weight_averaging is not None:
            return "trainer.strategy=fsdp keeps no moving average of weights; use optim.weight_averaging=null"
        if trainer.accelerator == "cpu":
            return "trainer.strategy=fsdp is for GPUs; use trainer.strategy=ddp"
    return None
