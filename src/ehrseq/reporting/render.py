"""Writing a report: templates filled with a page."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ehrseq.files import atomic_folder
from ehrseq.reporting.page import Page, in_words, rows_in_markdown
from ehrseq.reporting.tripod import checklist

REPORT, CARD, CHECKLIST = "report.html", "model_card.md", "tripod_ai.md"
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(page: Page, folder: Path) -> None:
    """Write `report.html`, `model_card.md` and `tripod_ai.md` into a folder, which appears whole.

    Args:
        page: What to say.
        folder: To make, or to replace.
    """
    html = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    text = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True
    )
    items = checklist(page)
    # Own files, whose text was escaped where it was written.
    svgs = {figure.name: Markup(figure.svg) for section in page.sections for figure in section.figures}
    shared = {"page": page, "in_words": in_words, "items": items, "markdown": rows_in_markdown}
    script = Markup((_TEMPLATES / "hover.js").read_text(encoding="utf-8"))
    style = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    with atomic_folder(folder) as staging:
        report = html.get_template("report.html.j2").render(**shared, svgs=svgs, script=script, style=style)
        (staging / REPORT).write_text(report, encoding="utf-8")
        for name in (CARD, CHECKLIST):
            (staging / name).write_text(text.get_template(f"{name}.j2").render(**shared), encoding="utf-8")
