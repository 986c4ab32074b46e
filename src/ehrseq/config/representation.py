"""The sections of a run's configuration that say how histories become steps."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from ehrseq.config.section import Section


class StepsConfig(Section):
    """How histories become steps."""

    max_steps: PositiveInt

    def inputs_of(self, codes: int) -> int:
        """How many features or codes a network reads, of so many codes in the vocabulary."""
        return codes


class GridConfig(StepsConfig):
    """Histories as bins of equal width."""

    name: Literal["grid"]
    bin_hours: Annotated[float, Field(gt=0, le=24 * 365)]
    aggregate: Literal["last", "mean"]
    max_features: PositiveInt | None

    def inputs_of(self, codes: int) -> int:
        """At most `max_features`."""
        return codes if self.max_features is None else min(codes, self.max_features)


class TimepointsConfig(StepsConfig):
    """Histories as times at which something happened."""

    name: Literal["timepoints"]


class EventsConfig(StepsConfig):
    """Histories as single events."""

    name: Literal["events"]


RepresentationConfig = Annotated[GridConfig | TimepointsConfig | EventsConfig, Field(discriminator="name")]
