"""The schema of a run's configuration: frozen, no unknown keys, ranges checked.

Values come from the YAML files in `conf/`; this module holds no defaults of its own, so that there is one place to
look.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ehrseq.config.address import Address
from ehrseq.config.components import AnyComponent
from ehrseq.config.fit import find_misfit
from ehrseq.config.model import AnyModel, Blend, Teacher
from ehrseq.config.representation import RepresentationConfig
from ehrseq.config.section import Section
from ehrseq.config.targets import Part, Target

Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
# One history a prediction, or one a subject with an output at every step.
Outputs = Literal["last", "steps"]
SplitName = Literal["train", "tuning", "held_out"]
Recalibration = Literal["none", "platt", "isotonic", "temperature"]


class Auxiliary(Part):
    """What a network learns beside its target and never predicts, see `ehrseq.nn.SequenceModel`.

    `labels`: who makes them; null: the source, under this name. They count where subject and prediction time are those
    of one of the task's; where there is none, nothing is learned.
    """

    labels: AnyComponent | None = None


class Task(Section):
    """What is predicted: the labels' name, the kind of outcome, where they come from (null: the source gives them).

    `auxiliary`: other targets by name, from which a network learns what helps to tell its own (Caruana 1997, "Multitask
    learning"). They steer neither early stopping nor the choice of weights, and are gone from the finished network.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    target: Target
    labels: AnyComponent | None
    auxiliary: dict[Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")], Auxiliary] = Field(default_factory=dict)

    @field_validator("auxiliary")
    @classmethod
    def _order(cls, given: dict[str, Auxiliary]) -> dict[str, Auxiliary]:
        # JSON files and digests keep no order of keys, and the columns must not depend on it.
        return dict(sorted(given.items()))


class Split(Section):
    """How subjects are divided; `train` gets what the others leave."""

    method: Literal["hash", "source", "time", "site"]
    tuning: Share
    held_out: Share
    stratify: bool
    seed: int
    folds: Annotated[int, Field(ge=2)] | None
    fold: NonNegativeInt
    inner_folds: Annotated[int, Field(ge=2)] | None
    inner_fold: NonNegativeInt
    calendar: Literal["prediction", "first_event"]
    sites: Annotated[str, Field(min_length=1)] | None
    site: Annotated[str, Field(min_length=1)] | None

    @model_validator(mode="after")
    def _check(self) -> "Split":
        if self.method != "hash" and self.folds is not None:
            raise ValueError(f"method={self.method} has no folds; use method=hash")
        if self.method in ("source", "time") and self.inner_folds is not None:
            raise ValueError(f"method={self.method} has no inner_folds: its tuning is what it is")
        if self.method == "site" and (self.sites is None or self.site is None):
            raise ValueError(
                "method=site needs sites (the static code or the table that names them) and site (which is held out)"
            )
        if self.tuning + self.held_out >= 1:
            raise ValueError(f"tuning ({self.tuning}) + held_out ({self.held_out}) leave no subjects for train")
        for name, own, count in (("fold", self.fold, self.folds), ("inner_fold", self.inner_fold, self.inner_folds)):
            if count is not None and own >= count:
                raise ValueError(f"{name} is {own}, but with {name}s={count} it is 0 to {count - 1}")
        return self


class Preprocess(Section):
    """What is fitted on `train` and applied to every value."""

    min_subjects: PositiveInt
    fallback: Literal["none", "prefix", "parents"]
    unknown: Literal["drop", "code"]
    text_values: Literal["drop", "categories"]
    log: Literal["auto", "none"]
    normaliser: Literal["robust", "zscore", "quantile", "none"]
    clip: PositiveFloat | None
    limits: bool
    repairs: bool


class Engine(Section):
    """Who prepares the data: local processes or a Ray cluster."""

    kind: Literal["local", "ray"]
    workers: PositiveInt | None
    address: str | None


class Optim(Section):
    """Optimiser, learning-rate schedule, averaging of the weights."""

    optimizer: AnyComponent
    schedule: Literal["cosine", "plateau", "constant"]
    warmup_epochs: NonNegativeInt
    weight_averaging: Share | None


class Loss(Section):
    """How errors count: for rare outcomes, and against overconfidence."""

    class_weight: Literal["none", "balanced"] | PositiveFloat
    focal: NonNegativeFloat
    logit_adjustment: NonNegativeFloat
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    target_replication: Probability
    outputs_share: Annotated[float, Field(gt=0, le=1)]
    attention_entropy: NonNegativeFloat
    attention_gradient: NonNegativeFloat
    attention_consistency: NonNegativeFloat


class Trainer(Section):
    """How long and on what the network trains."""

    # What has no part in the result: it may differ when a training goes on.
    harmless: ClassVar = ("checkpoint_minutes", "profile", "progress")

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveInt
    nodes: PositiveInt
    strategy: Literal["ddp", "fsdp"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    tf32: bool
    compile: bool
    accumulate: PositiveInt
    max_epochs: PositiveInt
    patience: PositiveInt | None
    monitor: Annotated[str, Field(pattern=r"^tuning/[a-z_0-9]+$")]
    keep: Literal["best", "last"]
    gradient_clip: PositiveFloat | None
    deterministic: bool
    checkpoint_minutes: NonNegativeFloat
    profile: bool
    progress: Literal["auto"] | bool

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.nodes


class Loader(Section):
    """How many histories make a batch, and who cuts them."""

    harmless: ClassVar = ("num_workers", "cache_gib")

    batch_size: PositiveInt
    batch_tokens: PositiveInt | None
    max_padding: Annotated[float, Field(gt=0, lt=1)] | None
    eval_batch_size: PositiveInt
    num_workers: NonNegativeInt
    cache_gib: Annotated[float, Field(ge=0)]


class Alarms(Section):
    """How alarms of repeated predictions are judged, see `ehrseq.metrics.alarms.Rules`."""

    horizon_hours: NonNegativeFloat
    reach_hours: PositiveFloat
    silence_hours: NonNegativeFloat
    leads_hours: tuple[NonNegativeFloat, ...]


class Evaluate(Section):
    """What is scored, how sure the scores are, and who may be seen in them."""

    split: SplitName
    replicates: NonNegativeInt
    stratified: bool
    level: Share
    seed: int
    sensitivity: Share
    alert_budget: Share
    subgroups: tuple[str, ...] | None
    age_bands: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    min_group: PositiveInt
    outcomes: PositiveInt
    alarms: Alarms
    figures: bool
    individuals: bool

    @model_validator(mode="after")
    def _check(self) -> "Evaluate":
        if list(self.age_bands) != sorted(set(self.age_bands)):
            raise ValueError(f"age_bands {list(self.age_bands)} must rise")
        return self


class Controls(Section):
    """Further networks that are trained for the verdict alone, one after the other."""

    shuffled_labels: bool
    seeds: NonNegativeInt
    even_attention: bool
    guided: bool
    rivals: tuple[PositiveFloat, ...]

    @property
    def wanted(self) -> bool:
        """Whether any is."""
        return bool(self.shuffled_labels or self.seeds or self.even_attention or self.guided or self.rivals)


class Explain(Section):
    """Which histories are explained, by what, and on how many the explainers are judged."""

    enabled: bool
    split: SplitName
    explainers: Annotated[tuple[str, ...], Field(min_length=1)]
    samples: PositiveInt | None
    judged: PositiveInt
    steps: PositiveInt
    window_hours: PositiveFloat
    timelines: NonNegativeInt
    replacement: Literal["carry", "mask"]
    prediction: Literal["auto"] | int
    controls: Controls
    seed: NonNegativeInt


class Audit(Section):
    """Checks that prove something about the result."""

    shuffled_labels: bool


class Compare(Section):
    """How finished runs are compared."""

    reference: Annotated[str, Field(min_length=1)]
    pairs: Literal["all", "reference"]
    examples: Literal["same", "common"]
    correction: Literal["holm", "fdr", "none"]


class Reproduce(Section):
    """When a repetition counts as the same."""

    tolerance: NonNegativeFloat


class Tracking(Section):
    """Where MLflow keeps the run, and the name of the model in its registry, if it is to be there."""

    enabled: bool
    uri: Address
    experiment: Annotated[str, Field(min_length=1)]
    registry: Annotated[str, Field(pattern=r"^[^/:.%\"']+$")] | None


class Paths(Section):
    """Where the outputs go; relative to the working folder."""

    data: Annotated[str, Field(min_length=1)]
    runs: Annotated[str, Field(min_length=1)]


class Settings(Section):
    """Everything one run is made from."""

    source: AnyComponent
    task: Task
    representation: RepresentationConfig
    outputs: Outputs
    pretrained: str | None
    explain: Explain
    model: AnyModel
    optim: Optim
    teacher: Teacher | None
    blend: Blend | None
    loss: Loss
    trainer: Trainer
    tracking: Tracking
    seed: NonNegativeInt
    members: PositiveInt
    members_by: Literal["seeds", "folds"]
    split: Split
    preprocess: Preprocess
    engine: Engine
    loader: Loader
    recalibration: Recalibration
    evaluate: Evaluate
    audit: Audit
    compare: Compare
    reproduce: Reproduce
    paths: Paths
    resume: str | None
    run: str | None
    output: str | None
    force: bool

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        if misfit := find_misfit(self):
            raise ValueError(misfit)
        return self
