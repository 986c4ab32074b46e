"""What people see: MLflow's table of runs, a run's page, a comparison, and the report, in a real headless Chromium.

Two tiny trainings, the server that `ehrseq ui` starts, and the report that `ehrseq report` writes. Screenshots go to
the folder that EHRSEQ_SCREENSHOTS names. EHRSEQ_SHOWN names a working folder whose runs are shown in place of the tiny
ones: so `make pictures` makes the pictures of the documentation.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from servers import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

REPOSITORY = Path(__file__).parent.parent.parent
EHRSEQ = Path(sys.executable).parent / "ehrseq"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PATIENCE = 60_000  # milliseconds; a machine that is busy is slow, not wrong
WIDE, TALL = 1440, 900
Command = Callable[..., "subprocess.CompletedProcess[str]"]


class Shown(NamedTuple):
    """What is looked at: the working folder, its explained run, and the page that `ehrseq ui` leads to."""

    folder: Path
    run: Path
    table: str


@pytest.fixture(scope="module")
def chromium() -> Path:
    pytest.importorskip("playwright", reason="playwright is not installed (extra dev)")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    pytest.skip("no Chromium here (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(chromium: Path) -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Playwright gives it an empty profile of its own.
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    context = browser.new_context(viewport={"width": WIDE, "height": TALL})
    context.set_default_timeout(PATIENCE)
    # What one who trains models chooses once, at the upper left; MLflow keeps it in the browser.
    context.add_init_script("localStorage.setItem('mlflow.workflowType_v1', '\"machine_learning\"')")
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def screenshots() -> Path:
    folder = Path(os.environ.get("EHRSEQ_SCREENSHOTS", REPOSITORY / ".ci" / "artifacts" / "browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def shown(chromium: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Two runs of different models, and `ehrseq ui` on them; nothing is trained where nobody can look."""
    assert chromium.is_file()
    if "EHRSEQ_SHOWN" in os.environ:
        folder = Path(os.environ["EHRSEQ_SHOWN"])
    else:
        folder = request.getfixturevalue("trained")
        # Other tests take what is in `runs/` for the run of `trained`.
        words = ("train", "model=gru", *request.getfixturevalue("tiny"), "explain=none", "evaluate.figures=false")
        done = request.getfixturevalue("ehrseq")(*words, f"paths.runs={tmp_path_factory.mktemp('gru')}", cwd=folder)
        assert done.returncode == 0, done.stderr
    run = next(path.parent.parent for path in sorted((folder / "runs").glob("*/explain/verdict.json")))
    with Server(str(EHRSEQ), "ui", "--port", "{port}", folder=folder) as server:
        (table,) = re.findall(r"^\w+: (http\S+/runs\?\S+)$", server.said(), re.MULTILINE)
        yield Shown(folder, run, table)


def open_table(page: "Page", table: str) -> None:
    """The table of runs, as `ehrseq ui` leads to it, without the chat that MLflow opens beside it."""
    page.goto(table)
    page.locator(".ag-header-cell").first.wait_for()
    runs_of(page).first.wait_for()
    page.get_by_role("button", name="Close", exact=True).first.click()
    page.get_by_role("button", name="Close", exact=True).first.wait_for(state="detached")


def runs_of(page: "Page") -> "Locator":
    return page.locator("a[href*='/runs/']")


def select(page: "Page", name: str, opened: "Locator") -> None:
    """Click on a file until it is open: on a busy machine a click while the list is drawn anew goes nowhere."""
    from playwright.sync_api import TimeoutError as Late

    for _ in range(3):
        page.get_by_text(name, exact=True).first.click()
        with suppress(Late):
            opened.wait_for(timeout=PATIENCE / 3)
            return
    opened.wait_for(timeout=1)


def is_drawn(page: "Page", images: "Locator") -> bool:
    """Whether all images have pixels, which one that failed to load has not."""
    images.first.wait_for()
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    widths = images.evaluate_all("(all) => all.map((image) => image.naturalWidth)")
    return bool(widths) and min(widths) > 0


@pytest.mark.slow
def test_the_table_of_runs_shows_results_and_leads_to_runs(page: "Page", shown: Shown, screenshots: Path) -> None:
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url))
    open_table(page, shown.table)
    headings = page.locator(".ag-header-cell").all_inner_texts()
    assert {"Run Name", "held_out/auroc", "held_out/auroc_ci_low", "held_out/auroc_ci_high"} <= set(headings)
    assert headings.index("held_out/auroc") < headings.index("held_out/auroc_ci_low")
    names = runs_of(page).all_inner_texts()
    assert len(names) == 2
    assert {name.split()[0] for name in names} == {"lstm", "gru"}
    assert re.fullmatch(r"0\.\d+", page.locator(".ag-row [col-id='metrics.`held_out/auroc`']").first.inner_text())
    assert page.get_by_role("button", name="Results").is_visible()  # the view by its name
    page.screenshot(path=screenshots / "mlflow_experiment.png", clip={"x": 0, "y": 0, "width": WIDE, "height": 440})
    runs_of(page).first.click()
    page.get_by_role("tab", name="Overview").wait_for()
    # Nobody outside is told what is looked at.
    server = re.match(r"http://[^/]+", shown.table)
    assert server
    assert [url for url in asked if not url.startswith((server.group(), "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_run_page_has_the_result_its_figures_and_its_metrics(page: "Page", shown: Shown, screenshots: Path) -> None:
    open_table(page, shown.table)
    runs_of(page).filter(has_text="lstm").click()
    description = page.get_by_text("Everything on one page")
    description.wait_for()
    assert re.search(r"AUROC 0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\)", description.inner_text())
    page.get_by_text("held_out/auroc", exact=True).first.wait_for()
    page.get_by_text("Show more").first.click()
    page.get_by_text("precision_recall.png").first.wait_for()
    page.set_viewport_size({"width": WIDE, "height": 1700})
    page.screenshot(path=screenshots / "mlflow_description.png")
    page.get_by_text("Show less").click()
    page.get_by_text(re.compile("-train ")).first.wait_for()  # the data, with their digest
    page.screenshot(path=screenshots / "mlflow_run.png", clip={"x": 0, "y": 0, "width": WIDE, "height": TALL})
    page.set_viewport_size({"width": WIDE, "height": TALL})

    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("evaluate", exact=True).click()
    for figure in ("calibration.png", "roc.png", "usefulness.png"):
        select(page, figure, page.get_by_text(f"evaluate/{figure}").first)
        assert is_drawn(page, page.locator("img[src^='blob:']")), figure
    # Where it lies on this machine is nobody's business.
    page.get_by_text(re.compile(r"^Path: ")).first.evaluate("(line) => { line.style.visibility = 'hidden'; }")
    page.screenshot(path=screenshots / "mlflow_figure.png")
    page.get_by_text("report", exact=True).click()
    page.get_by_text("report.html", exact=True).click()
    inside = page.frame_locator("iframe").get_by_role("heading", name="How well does it tell them apart?")
    inside.wait_for()  # the report opens in the page

    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_text(re.compile("^held_out")).first.wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    page.screenshot(path=screenshots / "mlflow_metrics.png")


@pytest.mark.slow
def test_runs_are_compared(page: "Page", shown: Shown, screenshots: Path) -> None:
    open_table(page, shown.table)
    page.locator(".ag-header-cell input[type=checkbox]").first.check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs").wait_for()
    assert page.locator("a[href*='/runs/']").count() >= 2
    page.get_by_text("ehrseq.headline", exact=True).wait_for()
    known = json.loads((shown.run / "evaluate" / "metrics.json").read_text())["held_out/auroc"]
    words = f"held_out/auroc {known['value']:.4f} {known['ci_low']:.4f} to {known['ci_high']:.4f}"
    assert page.get_by_text(words, exact=True).count() == 1
    assert page.get_by_text(re.compile(r"^held_out/auroc 0\.\d{4} 0\.\d{4} to [01]\.\d{4}$")).count() == 2
    for part in ("Visualizations", "Parameters"):  # folded, so that the results of both stand below their names
        page.get_by_role("button", name=part, exact=True).click()
    page.set_viewport_size({"width": WIDE, "height": 1300})
    page.screenshot(path=screenshots / "mlflow_comparison.png")
    page.get_by_role("link", name="epoch_seconds").click()
    page.locator(".js-plotly-plot").first.wait_for()  # the metric of both, drawn


@pytest.fixture(scope="module")
def report(shown: Shown, ehrseq: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mailed") / "report"
    done = ehrseq("report", str(shown.run), f"output={folder}", "tracking=none", cwd=shown.folder)
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


@pytest.mark.slow
def test_the_report_opens_without_network_and_is_whole(page: "Page", report: Path, screenshots: Path) -> None:
    asked, complaints = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.context.set_offline(True)
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.goto(report.as_uri())
    assert [url for url in asked if not url.startswith(("data:", report.as_uri()))] == []

    assert is_drawn(page, page.locator("figure img"))
    drawn = page.locator("figure svg").evaluate_all("(all) => all.map((svg) => svg.getBoundingClientRect().width)")
    assert len(drawn) >= 7
    assert min(drawn) > 300
    # No word of a figure is cut off at its edge.
    outside = page.locator("figure svg").evaluate_all(
        """(all) => all.flatMap((svg) => { const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter((text) => { const own = text.getBoundingClientRect();
          return own.width && (own.left < box.left - 3 || own.right > box.right + 3 || own.top < box.top - 3
            || own.bottom > box.bottom + 3); }).map((text) => text.textContent); })"""
    )
    assert outside == []
    # Nothing is wider than the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.screenshot(path=screenshots / "report.png")

    links = page.locator("nav a").evaluate_all("(all) => all.map((link) => link.getAttribute('href'))")
    assert len(links) >= 8
    for link in links:
        assert link.startswith("#"), link
        assert page.locator(link).count() == 1, link
    page.locator("nav a").last.click()
    page.wait_for_function("() => scrollY > 1000")

    tables = {
        name: page.locator("details", has=page.get_by_text(f"Table: {name}", exact=True)).locator("tbody tr")
        for name in ("thresholds", "calibration", "groups", "Table 1", "missingness", "attrition")
    }
    assert all(rows.count() for rows in tables.values())
    thresholds = tables["thresholds"].all_inner_texts()
    assert {row.split("\t")[0] for row in thresholds} >= {"sensitivity", "specificity", "precision (PPV)", "MCC"}
    assert any(re.search(r"\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", row) for row in thresholds)

    curve = page.locator("#figure-roc svg")
    curve.scroll_into_view_if_needed()
    box = curve.bounding_box()
    assert box
    point = curve.evaluate("(svg) => JSON.parse(svg.dataset.hover)[0].series[0].points[50]")
    page.mouse.move(box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"])
    assert "sensitivity" in page.locator("#tip").inner_text()  # figures answer the pointer

    page.pdf(path=screenshots / "report.pdf", format="A4", print_background=True)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not(.long):not([open])").count() == 0  # what is folded is printed
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.screenshot(path=screenshots / "report_whole.png", full_page=True)
    assert complaints == []


@pytest.mark.slow
def test_no_figure_is_cut_off_at_its_edge(shown: Shown) -> None:
    from matplotlib.image import imread

    figures = sorted([*shown.run.glob("evaluate/*.png"), *shown.run.glob("explain/*.png")])
    assert len(figures) >= 10
    cut = []
    for path in figures:
        pixels = imread(path)[..., :3]
        edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
        if any((edge < 0.9).any() for edge in edges):
            cut.append(path.name)
    assert cut == []
