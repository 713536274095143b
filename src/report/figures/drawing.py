"""What all figures share: colours, axes, and the two kinds of plot that most of them are.

Strings from the data pass through `plain` on their way into a plot: plotly reads a subset of HTML.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from report.shapes import LARGEST

# Okabe and Ito's colours, which the colour-blind tell apart; their yellow is too pale on white.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"
AT_EDGE = "learning rate at the grid's edge"


@dataclass(frozen=True)
class Style:
    color: str
    dash: str
    symbol: str


ARMS = {
    "none": Style(BLACK, "solid", "circle"),
    "BN M=B": Style(BLUE, "solid", "square"),
    "BN M=32": Style(VERMILION, "dash", "diamond"),
    "LN": Style(GREEN, "dot", "cross"),
}
OTHERS = [Style(PURPLE, "dashdot", "triangle-up"), Style(ORANGE, "longdash", "star"),
          Style(SKY, "solid", "x"), Style(GREEN, "dash", "hexagon"), Style(BLUE, "dot", "pentagon"),
          Style(VERMILION, "dashdot", "triangle-down"), Style(PURPLE, "solid", "circle"),
          Style(BLACK, "dash", "square")]
SERIES = [Style(BLUE, "solid", "circle"), Style(VERMILION, "dash", "diamond"),
          Style(GREEN, "dot", "square"), *OTHERS]


def styles(names: Iterable[str]) -> dict[str, Style]:
    """In the order of the legend. An arm looks alike in all figures; arms without a look of their
    own, and names that are no arms, take the others in turn."""
    ordered = sorted(set(names), key=_natural)
    others = [name for name in ordered if name not in ARMS]
    free = OTHERS if any(name in ARMS or name.startswith("BN ") for name in ordered) else SERIES
    return {name: ARMS.get(name) or free[others.index(name) % len(free)] for name in ordered}


def _natural(name: str) -> tuple:
    """none, the rest with numbers by size, then BN M=B and LN."""
    rank = {"none": 0, "BN M=B": 2, "LN": 3}.get(name, 1)
    return rank, [(0, float(part), "") if part.isdecimal() else (1, 0.0, part)
                  for part in re.split(r"(\d+)", name) if part]


def plain(value: object) -> str:
    return html.escape(str(value), quote=False)


def categories(values: Iterable[str]) -> list[str]:
    """Names on an axis, a line for each of their parts."""
    return [plain(value).replace(", ", "<br>") for value in values]


@dataclass(frozen=True)
class Axis:
    """`log` is the base whose powers the grid shows, 0 for a linear axis."""

    title: str
    log: int = 0
    percent: bool = False


def axis_layout(axis: Axis, values: Iterable[float] = ()) -> dict:
    """`values`: those that a logarithmic axis will show."""
    layout = {"title": {"text": plain(axis.title), "standoff": 10, "font": {"size": 13}},
              "automargin": True, "gridcolor": "#e8e8e8", "linecolor": "#999999", "showline": True,
              "zeroline": False, "ticks": "outside", "tickcolor": "#999999", "ticklen": 4}
    if axis.percent:
        layout["tickformat"] = ".4~%"
    if not axis.log:
        return layout
    shown = [float(v) for v in values if v is not None and 0 < v < LARGEST]
    ticks = _ticks(min(shown), max(shown), axis.log) if shown else []
    return layout | {"type": "log", "tickmode": "array", "tickvals": ticks,
                     "ticktext": [_power(tick) for tick in ticks]}


def _ticks(low: float, high: float, base: int) -> list[float]:
    """Powers of the base around [low, high], thinned to at most eight; 1, 2, 5 in short ranges, even
    steps in the shortest."""
    if base == 10 and low < high < 4 * low:
        unit = 10.0 ** math.floor(math.log10((high - low) / 3))
        step = next(unit * digit for digit in (1, 2, 5, 10) if (high - low) / (unit * digit) <= 5)
        return [step * i for i in range(math.floor(low / step), math.ceil(high / step) + 1)
                if i > 0]
    first, last = math.floor(math.log(low, base) + 0.01), math.ceil(math.log(high, base) - 0.01)
    if base == 10 and math.log10(high / low) < 2:
        return [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [float(base)**power for power in range(first, last + 1, 1 + (last - first) // 9)]


def _power(value: float) -> str:
    if 1e-3 <= value < 1e6:
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    digit, power = f"{value:.0e}".split("e")
    return ("" if digit == "1" else f"{digit} × ") + f"10<sup>{int(power)}</sup>"


def blank(x: Axis, y: Axis, x_values: Iterable[float] = (),
          y_values: Iterable[float] = ()) -> go.Figure:
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
    figure = go.Figure(layout={
        "template": "none", "paper_bgcolor": "white", "plot_bgcolor": "white", "autosize": True,
        "font": {"family": font, "size": 13, "color": "#1c1c1c"},
        "margin": {"l": 56, "r": 14, "t": 12, "b": 48}, "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "font": {"color": "#1c1c1c", "family": font}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "tracegroupgap": 0},
        "xaxis": axis_layout(x, x_values), "yaxis": axis_layout(y, y_values)})
    figure.update_layout(showlegend=True)
    return figure


def guide(figure: go.Figure, x: list[float], y: list[float], name: str, dash: str = "dash",
          in_legend: bool = True) -> None:
    """A line that data are held against: grey, behind, without hover."""
    figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", hoverinfo="skip",
                                showlegend=in_legend,
                                line={"color": GREY, "dash": dash, "width": 1.5}))


def _hover(x: Axis, y: Axis, name: str, what: str) -> str:
    form = ".2%" if y.percent else ".4~g"
    return (f"<b>{plain(name)}</b><br>{plain(x.title)}: %{{x}}<br>"
            f"{plain(y.title)}: %{{y:{form}}}<br>{what}<extra></extra>")


def points_and_medians(frame: pd.DataFrame, x: Axis, y: Axis, medians: pd.DataFrame,
                       group: str = "arm") -> go.Figure:
    """Each row of `frame` (x, y, group, seed, edge and, if targets, reached) a point; each row of
    `medians` (x, y, group, edge) a larger one, joined by lines. Open: rate at the grid's edge."""
    known = pd.concat([frame[["x", "y"]], medians[["x", "y"]]])
    figure = blank(x, y, known["x"] if x.log else (), known["y"] if y.log else ())
    reached = frame["reached"] if "reached" in frame else pd.Series(True, frame.index)
    for name, style in styles(medians[group]).items():
        mine = frame[group] == name
        for kind, rows in (("seed", frame[mine & reached]), ("censored", frame[mine & ~reached])):
            if rows.empty:
                continue
            hollow = kind == "censored"
            note = "seed %{customdata}" + (", not reached: budget spent" if hollow else "")
            figure.add_trace(go.Scatter(
                x=_positions(rows["x"]), y=rows["y"], mode="markers", customdata=rows["seed"],
                name=plain(name), legendgroup=plain(name), showlegend=False, opacity=0.5,
                marker={"color": style.color, "size": 9 if hollow else 6,
                        "symbol": "triangle-up-open" if hollow else style.symbol},
                hovertemplate=_hover(x, y, name, note)))
        rows = medians[(medians[group] == name) & np.isfinite(medians["y"].astype(float))]
        edge = rows["edge"] != "none"
        figure.add_trace(go.Scatter(
            x=_positions(rows["x"]), y=rows["y"], mode="lines+markers", name=plain(name),
            legendgroup=plain(name), customdata=np.where(edge, f"median, {AT_EDGE}", "median"),
            line={"color": style.color, "dash": style.dash, "width": 2},
            marker={"color": style.color, "size": 10, "line": {"width": 2, "color": style.color},
                    "symbol": [style.symbol + ("-open" if e else "") for e in edge]},
            hovertemplate=_hover(x, y, name, "%{customdata}")))
    return figure


def seeds_and_median_lines(frame: pd.DataFrame, x: Axis, y: Axis,
                           looks: dict[str, Style] | None = None) -> go.Figure:
    """Curves by `series`: each trial's thin, the median over trials at each x thick."""
    figure = blank(x, y, frame["x"] if x.log else (), frame["y"] if y.log else ())
    for name, style in (looks or styles(frame["series"])).items():
        rows = frame[frame["series"] == name]
        spread: dict[str, list] = {"x": [], "y": [], "seed": []}
        for seed, trial in rows.groupby("seed"):  # one trace, broken by None between trials
            spread["x"] += [*trial["x"], None]
            spread["y"] += [*trial["y"], None]
            spread["seed"] += [seed] * (len(trial) + 1)
        figure.add_trace(go.Scatter(
            x=spread["x"], y=spread["y"], customdata=spread["seed"], mode="lines+markers",
            name=plain(name), legendgroup=plain(name), showlegend=False, opacity=0.35,
            line={"color": style.color, "width": 1}, marker={"size": 4, "symbol": style.symbol},
            hovertemplate=_hover(x, y, name, "seed %{customdata}")))
        middle = rows.groupby("x", as_index=False)["y"].median()
        figure.add_trace(go.Scatter(
            x=middle["x"], y=middle["y"], mode="lines", name=plain(name), legendgroup=plain(name),
            line={"color": style.color, "dash": style.dash, "width": 2.5},
            hovertemplate=_hover(x, y, name, "median")))
    return figure


def _positions(values: pd.Series) -> list:
    return list(values) if pd.api.types.is_numeric_dtype(values) else categories(values)
