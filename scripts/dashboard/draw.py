"""Draws panels of a dashboard of Grafana's: of `stat` and `timeseries` what ours uses, as one page of HTML
for a row of them."""

import html
import math
import re

UNIT_WIDTH, UNIT_HEIGHT, WIDTH = 50, 33, 1200
COLOURS = ["#3a7d34", "#c98b00", "#2b7bba", "#d9663a", "#b8344a", "#1f5fa8", "#8e3b9b", "#5b5ba5", "#4e8f86", "#7c6a2e"]
# Of a legend: letters of a name, and lines.
NAME_MAX, ROWS_MAX = 46, 6
STYLE = """
body { margin: 0; background: #f4f5f5; font: 12px sans-serif; color: #24292e }
h1 { font-size: 16px; margin: 0; padding: 10px 8px 0; height: 22px }
main { position: relative }
section { position: absolute; box-sizing: border-box; padding: 4px }
section > div { box-sizing: border-box; height: 100%; background: #fff; border: 1px solid #dcdfe2; border-radius: 2px; padding: 6px 8px; overflow: hidden }
h2 { font-size: 13px; margin: 0 0 4px }
.stat { font-size: 56px; text-align: center; line-height: 150px; color: #fff; border-radius: 2px }
.green { background: #3a9d48 } .red { background: #d13b4d }
.legend span { margin-right: 10px; white-space: nowrap }
.legend b { display: inline-block; width: 12px; height: 3px; margin: 0 4px 3px 0 }
text { font: 11px sans-serif; fill: #59636e }
"""
# Of each unit: what it counts by, its names from the smallest on, and what stands behind all of them.
SCALES = {
    "bytes": (1024, ["B", "KiB", "MiB", "GiB"], ""),
    "Bps": (1000, ["B", "kB", "MB", "GB"], "/s"),
    "s": (1000, ["ns", "µs", "ms", "s"], ""),
    "none": (math.inf, [""], ""),
    "short": (1000, ["", "K", "M", "G"], ""),
    "reqps": (1000, ["", "K", "M"], " req/s"),
    "cps": (1000, ["", "K", "M"], " c/s"),
    "ops": (1000, ["", "K", "M"], " ops/s"),
}


def worded(value, unit):
    if not value:
        return "0"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    base, names, rest = SCALES[unit]
    if unit == "s":
        value *= 1e9
    for name in names:
        if abs(value) < base or name == names[-1]:
            figure = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
            return f"{figure} {name}{rest}".strip() if name else f"{figure}{rest}"
        value /= base


def nice_step(top, unit):
    """A round step that makes some four lines up to `top`."""
    base = 2 if unit == "bytes" else 10
    power = base ** math.floor(math.log(top / 4, base))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= top / 4)


def top_of(panel, series):
    fixed = panel["fieldConfig"]["defaults"].get("max")
    if fixed is not None:
        return fixed
    highest = max((value for _, points in series for value in points.values()), default=0)
    return highest * 1.05 or 1


def stacked(series):
    """Each series on top of those before it, with where it stands."""
    below, result = {}, []
    for name, points in series:
        floor = {at: below.get(at, 0) for at in points}
        above = {at: floor[at] + value for at, value in points.items()}
        below |= above
        result.append((name, above, floor))
    return result


def runs(points, step):
    """The moments of a series, parted where one is missing."""
    run = []
    for at in sorted(points):
        if run and at - run[-1] > 1.5 * step:
            yield run
            run = []
        run.append(at)
    if run:
        yield run


def chart(panel, series, span, width, height):
    start, end, step = span
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    if custom["stacking"]["mode"] == "normal":
        layers = stacked(series)
    else:
        layers = [(name, points, dict.fromkeys(points, 0)) for name, points in series]
    top = top_of(panel, [(name, above) for name, above, _ in layers])
    left, bottom = 62, height - 18
    x = lambda at: left + (at - start) / (end - start) * (width - left - 4)
    y = lambda value: bottom - min(value / top, 1) * (bottom - 6)
    lines = nice_step(top, unit)
    names = {float(value): it["text"] for mapping in defaults.get("mappings", []) for value, it in mapping["options"].items()}
    named = lambda value: names.get(value) or worded(value, unit)
    if names:
        lines = 1
    parts = []
    for number in range(int(top / lines) + 1):
        at = y(number * lines)
        parts.append(f'<line x1="{left}" x2="{width - 4}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e6e8ea"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{named(number * lines)}</text>')
    for minute in range(1, int((end - start) // 60) + 1):
        parts.append(f'<text x="{x(start + 60 * minute):.1f}" y="{height - 3}" text-anchor="middle">{minute} min</text>')
    for index, (_, above, floor) in enumerate(layers):
        colour = COLOURS[index % len(COLOURS)]
        for run in runs(above, step):
            line = " ".join(f"{x(at):.1f},{y(above[at]):.1f}" for at in run)
            under = " ".join(f"{x(at):.1f},{y(floor[at]):.1f}" for at in reversed(run))
            parts.append(f'<polygon points="{line} {under}" fill="{colour}" fill-opacity="{custom["fillOpacity"] / 100}"/>')
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
    if not series:
        parts.append(f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">No data</text>')
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'


def shortened(name):
    return name if len(name) <= NAME_MAX else f"{name[:NAME_MAX // 2]}…{name[-NAME_MAX // 2:]}"


def legend(series):
    entries = [
        f'<span><b style="background:{COLOURS[index % len(COLOURS)]}"></b>{html.escape(shortened(name))}</span>'
        for index, (name, _) in enumerate(series)
    ]
    return f'<div class="legend">{" ".join(entries)}</div>'


def legend_rows(series, width):
    """Lines that a legend takes, by a guess at the width of letters; what does not fit is not seen."""
    rows, room = 1, width
    for name, _ in series:
        wanted = len(shortened(name)) * 6.6 + 28
        if room < wanted:
            rows, room = rows + 1, width
        room -= wanted
    return min(rows, ROWS_MAX)


def stat(panel, series):
    value = max(series[0][1].items())[1]
    reached = [it["color"] for it in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if it["value"] is None or value >= it["value"]]
    return f'<div class="stat {reached[-1]}">{value:.0f}</div>'


def panel_html(panel, series, span, top):
    place = panel["gridPos"]
    left, width, height = place["x"] * UNIT_WIDTH, place["w"] * UNIT_WIDTH, place["h"] * UNIT_HEIGHT
    if panel["type"] == "stat":
        drawn = stat(panel, series)
    else:
        drawn = chart(panel, series, span, width - 28, height - 50 - 15 * legend_rows(series, width - 30)) + legend(series)
    style = f"left:{left}px;top:{(place['y'] - top) * UNIT_HEIGHT}px;width:{width}px;height:{height}px"
    return f'<section style="{style}"><div><h2>{html.escape(panel["title"])}</h2>{drawn}</div></section>'


def page(title, drawn, span):
    """The page of a row: its panels with their series, each a name and points by time; and its height."""
    top = min(panel["gridPos"]["y"] for panel, _ in drawn)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in drawn) - top
    sections = "".join(panel_html(panel, series, span, top) for panel, series in drawn)
    head = f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>'
    return f"{head}<h1>{html.escape(title)}</h1><main>{sections}</main>", height * UNIT_HEIGHT + 34


def series_name(pattern, labels):
    return re.sub(r"{{\s*(\w+)\s*}}", lambda met: labels.get(met[1], ""), pattern) or "value"
