"""A timeline as one self-contained HTML page: nothing is loaded from anywhere, and an event pointed at tells all.

It shows values in their units: it stays where the data are, unless `evaluate.individuals` says otherwise.
"""

import json
from html import escape
from pathlib import Path
from string import Template

from ehrseq.explain.person import Glossary, Person, ago, in_words
from ehrseq.explain.rows import Layout, lay_out, shorten

_LEFT, _PLOT, _RIGHT = 230, 760, 130
_WIDTH = _LEFT + _PLOT + _RIGHT
_RISK, _ROW, _GAP = 130, 19, 34
_TICKS = (0.25, 1, 2, 4, 6, 12, 24, 48, 90, 180, 365, 1000, 5000, 10**9)
UP, DOWN = "#D55E00", "#0072B2"


def write_page(person: Person, glossary: Glossary, title: str, explainer: str, verdict: str, path: Path) -> None:
    """Write the page.

    Args:
        person: The explained history.
        glossary: What codes mean.
        title: Says which history, without an identifier.
        explainer: The explainer's name in words.
        verdict: How far it can be believed, a sentence.
        path: HTML to write.
    """
    layout = lay_out(person, glossary)
    told = [f"<li>{escape(line)}</li>" for line in in_words(person, glossary)]
    height = _RISK + _GAP + _ROW * len(layout.names) + 46
    page = _PAGE.substitute(
        title=escape(title),
        verdict=escape(verdict),
        explainer=escape(explainer),
        told="\n".join(told),
        statics=_statics(layout),
        width=_WIDTH,
        height=height,
        picture="\n".join([*_risk(person, layout), *_events(layout), *_axis(layout, height)]),
        events=_json(_tips(layout, glossary)),
        path=_json([[round(when, 1), round(risk, 1), tip] for when, risk, tip in _path_points(person, layout)]),
        up=UP,
        down=DOWN,
    )
    path.write_text(page, encoding="utf-8")


def _json(data: object) -> str:
    """JSON that may stand in a script."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _x(when: float, layout: Layout) -> float:
    return _LEFT + _PLOT * (1 - when / layout.oldest)


def _path_points(person: Person, layout: Layout) -> list[tuple[float, float, str]]:
    factor = 24.0 if layout.unit == "days" else 1.0
    top = _ceiling(person)
    return [
        (
            _x(hours / factor, layout),
            14 + (_RISK - 14) * (1 - risk / top),
            f"risk {risk:.1%}, {ago(hours)} before prediction",
        )
        for hours, risk in person.path.iter_rows()
    ]


def _ceiling(person: Person) -> float:
    """The largest risk on the axis."""
    most = float(max(person.path["risk"].to_list()))
    return next((top for top in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if most <= top), most)


def _risk(person: Person, layout: Layout) -> list[str]:
    top = _ceiling(person)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in _path_points(person, layout))
    parts = [f'<text x="{_LEFT - 10}" y="{_RISK / 2 + 8}" class="name">risk over time</text>']
    for share in (0.0, 0.5, 1.0):
        y = 14 + (_RISK - 14) * (1 - share)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{_LEFT + _PLOT + 6}" y="{y + 4}" class="tick">{top * share:.3g}</text>')
    parts.append(f'<polyline points="{line}" class="risk"/><circle id="at" r="4" class="at" visibility="hidden"/>')
    return parts


def _events(layout: Layout) -> list[str]:
    parts, first = [], _RISK + _GAP
    widest = max([abs(total) for total in layout.totals] or [1.0]) or 1.0
    middle = _LEFT + _PLOT + _RIGHT / 2 + 4
    parts.append(f'<text x="{middle}" y="{first - 14}" class="head">sum</text>')
    for number, (name, total) in enumerate(zip(layout.names, layout.totals, strict=True)):
        y = first + _ROW * (number + 0.5)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{y}" y2="{y}" class="grid"/>')
        label = f"<title>{escape(name)}</title>{escape(shorten(name, 29))}"
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" class="name">{label}</text>')
        wide = abs(total) / widest * (_RIGHT / 2 - 10)
        x, colour = (middle, UP) if total > 0 else (middle - wide, DOWN)
        box = f'x="{x:.1f}" y="{y - 5:.1f}" width="{wide:.1f}" height="10" fill="{colour}"'
        parts.append(f"<rect {box}><title>{total:+.3f}</title></rect>")
    # The weak first, so that the strong lie on top.
    order = sorted(range(layout.timed.height), key=lambda number: abs(layout.timed["contribution"][number]))
    rows, when = layout.timed["row"].to_list(), layout.timed["when"].to_list()
    contribution = layout.timed["contribution"].to_list()
    for number in order:
        size = (abs(contribution[number]) / layout.largest) ** 0.5
        y = first + _ROW * (rows[number] + 0.5)
        colour = UP if contribution[number] > 0 else DOWN
        parts.append(
            f'<circle cx="{_x(when[number], layout):.1f}" cy="{y:.1f}" r="{1.6 + 6.4 * size:.1f}" fill="{colour}" '
            f'fill-opacity="{0.15 + 0.7 * size:.2f}" data-i="{number}"/>'
        )
    return parts


def _axis(layout: Layout, height: int) -> list[str]:
    y = height - 40
    step = next(step for step in _TICKS if layout.oldest / step <= 12)
    parts = []
    for number in range(int(layout.oldest / step) + 1):
        x = _x(number * step, layout)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 15}" class="tick mid">{number * step:g}</text>')
    parts.append(f'<text x="{_LEFT + _PLOT / 2}" y="{y + 34}" class="tick mid">{layout.unit} before prediction</text>')
    return parts


def _statics(layout: Layout) -> str:
    if not layout.statics:
        return ""
    told = [f"{escape(name)} ({value:+.2f})" for name, value in layout.statics]
    return f"<p><b>Known from the start:</b> {'; '.join(told)}.</p>"


def _tips(layout: Layout, glossary: Glossary) -> list[list[str]]:
    rows = layout.timed.select("name", "code", "value", "hours", "contribution").iter_rows(named=True)
    return [
        [
            f"{row['name']}{glossary.amount(row['code'], row['value'])}",
            row["code"],
            f"{ago(row['hours'])} before prediction",
            f"{'raises' if row['contribution'] > 0 else 'lowers'} the score by {abs(row['contribution']):.3f}",
        ]
        for row in rows
    ]


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 14px/1.45 system-ui, sans-serif; color: #222; background: #fff; }
body { margin: 24px auto; max-width: ${width}px; padding: 0 12px; }
h1 { font-size: 19px; margin: 0 0 4px; }
.verdict { background: #f4f4f1; border-left: 4px solid #999; padding: 8px 12px; margin: 8px 0 14px; }
.key span { display: inline-block; width: 11px; height: 11px; border-radius: 6px; margin: 0 4px 0 12px; }
svg { width: 100%; height: auto; display: block; }
.grid { stroke: #e4e4e4; } .tick { font-size: 11px; fill: #666; } .mid, .head { text-anchor: middle; }
.name { font-size: 12px; text-anchor: end; fill: #222; } .head { font-size: 11px; fill: #666; }
.risk { fill: none; stroke: #222; stroke-width: 1.8; } .at { fill: #222; }
circle[data-i]:hover { stroke: #000; stroke-width: 1.5; }
#tip { position: fixed; pointer-events: none; display: none; max-width: 320px; }
#tip { background: #222; color: #fff; padding: 6px 9px; border-radius: 4px; font-size: 12px; }
#tip small { color: #bbb; } li { margin-bottom: 3px; }
</style></head><body>
<h1>$title</h1>
<div class="verdict"><b>How far to believe this.</b> $verdict</div>
<div class="key">Contributions by $explainer:
<span style="background:$up"></span>raises the score <span style="background:$down"></span>lowers it;
the larger the dot, the more. Point at an event to read it.</div>
<svg viewBox="0 0 $width $height" role="img" aria-label="risk over time above, events and their contributions below">
$picture
</svg>
$statics
<p><b>What counts most</b></p>
<ol>
$told
</ol>
<div id="tip"></div>
<script>
const events = $events, path = $path;
const tip = document.getElementById("tip"), svg = document.querySelector("svg"), at = document.getElementById("at");
function show(lines, event) {
  tip.replaceChildren();
  lines.forEach((line, i) => {
    const row = document.createElement(i === 1 ? "small" : "div");
    row.textContent = line;
    tip.append(row);
  });
  tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 330) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - 90) + "px";
}
function hide() { tip.style.display = "none"; at.setAttribute("visibility", "hidden"); }
svg.addEventListener("mousemove", event => {
  const i = event.target.dataset ? event.target.dataset.i : undefined;
  if (i !== undefined) { at.setAttribute("visibility", "hidden"); return show(events[i], event); }
  const box = svg.getBoundingClientRect(), scale = $width / box.width;
  const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
  if (y > 150 || x < 230 || x > 990) return hide();
  const near = path.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
  at.setAttribute("cx", near[0]); at.setAttribute("cy", near[1]); at.setAttribute("visibility", "visible");
  show([near[2]], event);
});
svg.addEventListener("mouseleave", hide);
</script>
</body></html>
""")
