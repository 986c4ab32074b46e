"""Which choices go together: what the parts of a configuration ask of each other, checked before anything is read."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ehrseq.config.schema import Settings

from ehrseq.config.targets import WATCHED

_CLASSIFIES = ("binary", "multiclass", "multilabel")


def find_misfit(settings: "Settings") -> str | None:
    """The first two choices that exclude each other, in a line that says what would do; None if all go together."""
    for check in (_monitor, _loss, _representation, _steps, _explanation):
        if message := check(settings):
            return message
    return None


def _monitor(settings: "Settings") -> str | None:
    kind = settings.task.target.kind
    allowed = ["tuning/loss", *(f"tuning/{name}" for name in WATCHED[kind])]
    if settings.trainer.monitor in allowed:
        return None
    return f"trainer.monitor={settings.trainer.monitor}: a {kind} target has {', '.join(allowed)}"


def _loss(settings: "Settings") -> str | None:
    kind, loss = settings.task.target.kind, settings.loss
    if kind == "multiclass" and not isinstance(loss.class_weight, str):
        return f"loss.class_weight={loss.class_weight:g}: a multiclass target has none or balanced"
    if kind not in _CLASSIFIES:
        for name in ("class_weight", "focal", "logit_adjustment", "label_smoothing"):
            if getattr(loss, name) not in (0, "none"):
                return f"loss.{name}={getattr(loss, name)} is for {', '.join(_CLASSIFIES)} targets, not {kind}"
    return None


def _representation(settings: "Settings") -> str | None:
    name = settings.representation.name
    for key, part in (("embedding", settings.model.embedding), ("encoder", settings.model.encoder)):
        if part.grid_only and name != "grid":
            short = part.target.rpartition(".")[2]
            return f"representation={name}: model.{key} {short} reads representation=grid only"
    return None


def _steps(settings: "Settings") -> str | None:
    model = settings.model
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


def _explanation(settings: "Settings") -> str | None:
    if not settings.explain.enabled:
        return None
    if settings.outputs == "steps":
        return "outputs=steps: attention is over whole histories; use explain=none"
    if not (settings.model.pooling.gives_attention or settings.model.encoder.gives_attention):
        short = settings.model.pooling.target.rpartition(".")[2]
        return f"explain=attention: model.pooling {short} gives no weights; use model/pooling=attention or explain=none"
    return None
