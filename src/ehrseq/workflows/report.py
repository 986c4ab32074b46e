"""From a run folder to a report that can be mailed."""

from dataclasses import dataclass
from pathlib import Path

from ehrseq.config.schema import Settings
from ehrseq.reporting import REPORT, Page, write_report
from ehrseq.workflows.console import say

FOLDER = "report"


@dataclass(frozen=True)
class Reported:
    """What `report` gives: the folder with the HTML file, the model card and the checklist."""

    folder: Path

    @property
    def page(self) -> Path:
        """The HTML file."""
        return self.folder / REPORT


def run(settings: Settings, folder: Path, target: Path | None = None) -> Reported:
    """Write the report of an evaluated run.

    Args:
        settings: `evaluate.individuals` is used.
        folder: The run folder.
        target: Where the report goes; None: `report/` in the run folder.

    Raises:
        RunError: If the run was not evaluated.
    """
    target = target or folder / FOLDER
    write_report(Page.of_run(folder, settings.evaluate.individuals), target)
    say(f"report: {target / REPORT}")
    return Reported(target)
