"""What every part of the configuration shares."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from ehrseq.files import digest_json


class Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def plain(self) -> dict[str, Any]:
        """The section as plain JSON types, under the names that the YAML uses."""
        return self.model_dump(mode="json", by_alias=True)

    def digest(self) -> str:
        """A digest of all values in the section."""
        return digest_json(self.plain())
