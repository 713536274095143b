"""A figure of the report: its data, its plots, and what is said when there are no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from report.results import Results

Plots = list[tuple[str, go.Figure]]  # heading and plot


@dataclass(frozen=True)
class Kind:
    """`frame` gives the rows of the figure's CSV, none if the study does not hold it."""

    id: str
    title: str
    caption: str
    needs: str  # completes "not drawn: it needs …"
    frame: Callable[[Results], pd.DataFrame]
    plots: Callable[[pd.DataFrame], Plots]
    most: int = 8  # plots that are drawn


@dataclass(frozen=True)
class Figure:
    kind: Kind
    data: pd.DataFrame
    plots: Plots
    left_out: int  # plots beyond the kind's most; their data are in the CSV
    at_edge: bool  # some learning rate is the first or last of its grid


def make(kind: Kind, results: Results) -> Figure | None:
    data = kind.frame(results)
    if data.empty:
        return None
    plots = kind.plots(data)
    if not plots:
        return None
    at_edge = "edge" in data and bool((data["edge"] != "none").any())
    return Figure(kind, data, plots[:kind.most], max(0, len(plots) - kind.most), at_edge)
