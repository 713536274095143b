"""What all figures share: colours, axes, and the two plots that most of them are.

Strings from the data pass through `plain` on their way into a plot: plotly reads a subset of HTML.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

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


def styles(names: Iterable[str]) -> dict[str, Style]:
    """An arm looks alike in all figures; other names take the remaining styles in turn."""
    chosen: dict[str, Style] = {}
    for name in names:
        unnamed = sum(other not in ARMS for other in chosen)
        chosen.setdefault(name, ARMS.get(name, OTHERS[unnamed % len(OTHERS)]))
    return chosen


def plain(value: object) -> str:
    return html.escape(str(value), quote=False)


@dataclass(frozen=True)
class Axis:
    """`log` is the base whose powers the grid shows, 0 for a linear axis."""

    title: str
    log: int = 0
    percent: bool = False


def axis_layout(axis: Axis, values: Iterable[float] = ()) -> dict:
    layout = {"title": {"text": plain(axis.title), "standoff": 10}, "automargin": True,
              "gridcolor": "#e8e8e8", "linecolor": "#999999", "showline": True, "zeroline": False,
              "ticks": "outside", "tickcolor": "#999999", "ticklen": 4}
    if axis.percent:
        layout["tickformat"] = ".4~%"
    if not axis.log:
        return layout
    layout |= {"type": "log", "exponentformat": "power"}
    finite = np.array([v for v in values if v is not None and np.isfinite(v) and v > 0])
    if axis.log == 2 and len(finite):
        octaves = math.log2(finite.max() / finite.min()) + 1
        layout |= {"tick0": 0, "dtick": math.log10(2) * max(1, math.ceil(octaves / 7)),
                   "tickformat": ",.4~g"}
    elif len(finite):
        layout |= {"dtick": 1} if math.log10(finite.max() / finite.min()) > 1.5 else {"nticks": 6}
    return layout


def blank(x: Axis, y: Axis, x_values: Iterable[float] = (), y_values: Iterable[float] = ()) -> go.Figure:
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


def guide(figure: go.Figure, x: list[float], y: list[float], name: str, dash: str = "dash") -> None:
    """A line that data are held against: grey, behind, without hover."""
    figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", hoverinfo="skip",
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
    for name, style in styles(medians[group].unique()).items():
        mine = frame[group] == name
        for kind, rows in (("seed", frame[mine & reached]), ("censored", frame[mine & ~reached])):
            if rows.empty:
                continue
            hollow = kind == "censored"
            note = "seed %{customdata}" + (", not reached: budget spent" if hollow else "")
            figure.add_trace(go.Scatter(
                x=_category(rows["x"]), y=rows["y"], mode="markers", customdata=rows["seed"],
                name=plain(name), legendgroup=plain(name), showlegend=False, opacity=0.5,
                marker={"color": style.color, "size": 9 if hollow else 6,
                        "symbol": "arrow-up-open" if hollow else style.symbol},
                hovertemplate=_hover(x, y, name, note)))
        rows = medians[(medians[group] == name) & np.isfinite(medians["y"].astype(float))]
        edge = rows["edge"] != "none"
        figure.add_trace(go.Scatter(
            x=_category(rows["x"]), y=rows["y"], mode="lines+markers", name=plain(name),
            legendgroup=plain(name), customdata=np.where(edge, f"median, {AT_EDGE}", "median"),
            line={"color": style.color, "dash": style.dash, "width": 2},
            marker={"color": style.color, "size": 10, "line": {"width": 2, "color": style.color},
                    "symbol": [style.symbol + ("-open" if e else "") for e in edge]},
            hovertemplate=_hover(x, y, name, "%{customdata}")))
    return figure


def seeds_and_median_lines(frame: pd.DataFrame, x: Axis, y: Axis, group: str = "series") -> go.Figure:
    """Curves: each trial's thin and its points small, the median over trials at each x thick."""
    figure = blank(x, y, frame["x"] if x.log else (), frame["y"] if y.log else ())
    for name, style in styles(frame[group].unique()).items():
        rows = frame[frame[group] == name]
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


def _category(values: pd.Series) -> list:
    """Numbers stay; text is made safe."""
    return list(values) if pd.api.types.is_numeric_dtype(values) else [plain(v) for v in values]
