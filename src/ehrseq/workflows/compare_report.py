"""A comparison for people: on the terminal, in Markdown and HTML, as a figure."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ehrseq.files import write_json
from ehrseq.metrics.forest import Entry, draw_forest
from ehrseq.workflows.comparison import Comparison, MetricTable, Pair, Row

JSON, MARKDOWN, HTML, FIGURE = "comparison.json", "comparison.md", "comparison.html", "forest.png"
_DIFFERING = 8  # settings that are shown
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd }
th { text-align: left } td { font-variant-numeric: tabular-nums } img { max-width: 100% }
code { background: #f3f3f3; padding: 0 .2rem }
"""


def write_report(comparison: Comparison, folder: Path, looks: str | None) -> None:
    """Write `comparison.json`, `.md`, `.html` and `forest.png`.

    Args:
        comparison: What to tell.
        folder: Where to.
        looks: How often these examples have been looked at, in a sentence.
    """
    write_json(folder / JSON, comparison.plain() | {"looks": looks})
    text = to_markdown(comparison, looks)
    (folder / MARKDOWN).write_text(text, encoding="utf-8")
    _draw(comparison, folder / FIGURE)
    (folder / HTML).write_text(_to_html(text, folder / FIGURE), encoding="utf-8")


def print_table(comparison: Comparison, looks: str | None) -> None:
    """The headline metric as a table on standard output, and the conclusion in words."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    table, name = _headline(comparison)
    shown = Table(box=box.SIMPLE_HEAD, title=f"{comparison.split}/{name}", title_justify="left")
    columns = _columns(comparison, table)
    for column in columns:
        shown.add_column(column, justify="left" if column in ("configuration", "told apart") else "right")
    for cells in _cells(comparison, table):
        shown.add_row(*(Text(cell) for cell in cells))
    console.print(shown)
    for line in [*conclude(comparison, table, name), *_facts(comparison, looks)]:
        console.print(Text(line))


def to_markdown(comparison: Comparison, looks: str | None) -> str:
    """The whole comparison: conclusion, all metrics, configurations."""
    table, name = _headline(comparison)
    lines = [f"# {comparison.task} on {comparison.split}: {len(comparison.configurations)} configurations", ""]
    lines += [*(f"- {line}" for line in conclude(comparison, table, name))]
    lines += [*(f"- {line}" for line in _facts(comparison, looks)), "", f"![forest plot of {name}]({FIGURE})", ""]
    order = [name, *(other for other in comparison.metrics if other != name)]
    for metric in order:
        own = comparison.metrics[metric]
        direction = f"{own.better} is better, " if own.better else ""
        lines += [f"## {metric}", "", f"{direction}differences by {own.method}", ""]
        lines += _grid(_columns(comparison, own), _cells(comparison, own))
    lines += ["## Configurations", ""]
    differing = list(comparison.configurations[0]["differs"])
    if len(differing) > _DIFFERING:  # other models: too many to read; the JSON has them all
        differing = []
    rows = []
    for item in comparison.configurations:
        seeds = ", ".join(str(run["seed"]) for run in item["runs"])
        monitor = f"{item['tuning']:.4f} ({item['monitor']})"
        rows.append([item["name"], seeds, monitor, *(str(item["differs"][key]) for key in differing)])
    lines += _grid(["configuration", "seeds", "on tuning", *differing], rows)
    runs = [f"{item['name']}: {', '.join(run['name'] for run in item['runs'])}" for item in comparison.configurations]
    return "\n".join([*lines, *(f"- {line}" for line in runs), ""])


def conclude(comparison: Comparison, table: MetricTable, metric: str) -> list[str]:
    """What can be said of one metric, in words."""
    reference = comparison.reference
    found = table.with_reference(reference)
    rows = [row for row in table.rows if row.name in found]
    undecided = [row for row in rows if found[row.name].p_corrected is None]
    apart = [row for row in rows if found[row.name].apart]
    same = [row.name for row in rows if row not in apart and row not in undecided]
    lines = [f"{metric}: the reference is {reference} ({comparison.reference_by})"]
    if same:
        lines.append(f"not told apart from {reference}: {', '.join(same)}")
    for row in apart:
        pair = found[row.name]
        assert pair.difference is not None
        higher = pair.difference > 0
        words = {"higher": ("worse", "better"), "lower": ("better", "worse"), None: ("lower", "higher")}
        word = words["higher" if table.better == "higher" else "lower" if table.better else None]
        ends = _interval(pair.ci_low, pair.ci_high, signed=True)
        p = _p(pair.p_corrected)
        lines.append(f"{row.name} is {word[higher]} than {reference}: {pair.difference:+.4f} ({ends}), corrected p {p}")
    if undecided:
        lines.append(f"nothing can be said of {', '.join(row.name for row in undecided)}: no intervals")
    if comparison.splits == 1 and any(row.seed_sd is None for row in table.rows):
        single = [row.name for row in table.rows if row.seed_sd is None]
        lines.append(
            f"one seed only: {', '.join(single)}; what is said of it holds for that trained model, not for other seeds"
        )
    return lines


def _facts(comparison: Comparison, looks: str | None) -> list[str]:
    """On what, how many, how corrected."""
    sets = f" in {comparison.splits} splits" if comparison.splits > 1 else ""
    lines = [
        f"{comparison.examples:,} examples of {comparison.subjects:,} subjects{sets}, the same for all "
        f"{comparison.runs} runs; {comparison.level:.0%} intervals; p corrected for {comparison.comparisons} "
        f"comparison{'s' if comparison.comparisons != 1 else ''} a metric ({comparison.correction})"
    ]
    if comparison.left_out:
        lines.append(f"{comparison.left_out:,} examples that not all runs have are left out")
    if comparison.runs_left_out:
        lines.append(f"{comparison.runs_left_out:,} runs on folds that not all configurations have are left out")
    if any(row.letters is not None for table in comparison.metrics.values() for row in table.rows):
        lines.append("configurations that share a letter cannot be told apart")
    return lines + ([looks] if looks else [])


def _headline(comparison: Comparison) -> tuple[MetricTable, str]:
    name = comparison.headline if comparison.headline in comparison.metrics else next(iter(comparison.metrics))
    return comparison.metrics[name], name


def _columns(comparison: Comparison, table: MetricTable) -> list[str]:
    columns = ["configuration", "value", "interval", "seeds"]
    if any(row.seed_sd is not None for row in table.rows):
        columns.append("sd of seeds")
    columns += [f"minus {comparison.reference}", "interval", "p", "p corrected"]
    return [*columns, "letters"] if any(row.letters is not None for row in table.rows) else [*columns, "told apart"]


def _cells(comparison: Comparison, table: MetricTable) -> list[list[str]]:
    found = table.with_reference(comparison.reference)
    spread = any(row.seed_sd is not None for row in table.rows)
    return [_line(row, found.get(row.name), spread) for row in table.rows]


def _line(row: Row, pair: Pair | None, spread: bool) -> list[str]:
    cells = [row.name, _number(row.value), _interval(row.ci_low, row.ci_high), str(row.seeds)]
    if spread:
        cells.append(_number(row.seed_sd))
    if pair is None:
        cells += ["reference", "", "", ""]
    else:
        ends = _interval(pair.ci_low, pair.ci_high, signed=True)
        cells += [_number(pair.difference, signed=True), ends, _p(pair.p), _p(pair.p_corrected)]
    if row.letters is not None:
        return [*cells, row.letters]
    return [*cells, "" if pair is None else "yes" if pair.apart else "no"]


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def _number(value: float | None, signed: bool = False) -> str:
    return "" if value is None else f"{value:+.4f}" if signed else f"{value:.4f}"


def _interval(low: float | None, high: float | None, signed: bool = False) -> str:
    return "" if low is None or high is None else f"{_number(low, signed)} to {_number(high, signed)}"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _draw(comparison: Comparison, path: Path) -> None:
    table, name = _headline(comparison)
    found = table.with_reference(comparison.reference)
    entries = []
    for row in table.rows:
        pair = found.get(row.name)
        bar = None if pair is None else (pair.difference, pair.ci_low, pair.ci_high)
        value = (row.value, row.ci_low, row.ci_high)
        entries.append(Entry(row.name, value, bar, pair is not None and pair.apart, row.letters or ""))
    note = _facts(comparison, None)[0].replace("; ", "\n", 1)
    if any(entry.letters for entry in entries):
        note += "\nOn the right: those that share a letter cannot be told apart."
    metric = f"{comparison.split}/{name}"
    draw_forest(entries, path, metric=metric, reference=comparison.reference, note=note)


def _to_html(text: str, figure: Path) -> str:
    """One file that needs no other."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    picture = base64.b64encode(figure.read_bytes()).decode()
    body = body.replace(f'src="{FIGURE}"', f'src="data:image/png;base64,{picture}"')
    title = escape(text.partition("\n")[0].lstrip("# "))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'
