"""`_target_` nodes: what may be built.

A `_target_` runs code, so only classes of the packages listed here are accepted (`workflows.build` checks the resolved
object once more before it calls it).
"""

import os
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

ALLOWED_PACKAGES = ("ehrseq", "torch.nn", "torch.optim", "pytorch_lightning", "lightning", "torchmetrics")
# Colon-separated packages whose classes a user trusts as `_target_`, e.g. EHRSEQ_ALLOWED_TARGETS=ourlab.models.
ALLOW_VARIABLE = "EHRSEQ_ALLOWED_TARGETS"

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]


def allowed_packages() -> tuple[str, ...]:
    """Packages whose classes a `_target_` may name: ours and those in `EHRSEQ_ALLOWED_TARGETS`."""
    extra = os.environ.get(ALLOW_VARIABLE, "")
    return ALLOWED_PACKAGES + tuple(name for name in extra.split(":") if name)


def is_allowed(target: str) -> bool:
    """Whether a dotted name lies in an allowed package."""
    return any(target.startswith(f"{package}.") for package in allowed_packages())


class Component(BaseModel):
    """A class to build, by its dotted name, and the arguments to build it with.

    Attributes:
        grid_only: Of embeddings and encoders, whether they read the representation `grid` only.
        gives_attention: Of encoders and poolings, whether they weigh the steps.
        at_steps: Of poolings, whether they can pool at every step what has come so far.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    grid_only: ClassVar[bool] = False
    gives_attention: ClassVar[bool] = False
    at_steps: ClassVar[bool] = False

    def looks_ahead(self) -> str:
        """Of encoders, what makes a step depend on later ones (`.bidirectional=true`); empty if nothing does."""
        return ""

    target: str = Field(alias="_target_")

    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return {key: value for key, value in self.model_dump().items() if key != "target"}


class CustomComponent(Component):
    """A component without a schema of its own: its constructor checks the arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    # What is not known is not refused here.
    gives_attention: ClassVar[bool] = True
    at_steps: ClassVar[bool] = True
