"""Figures of cost: time and memory of a step by batch size, its parts and what is sent by ranks."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from report.figures import drawing, selection
from report.figures.drawing import Axis
from report.figures.model import Kind, Plots
from report.figures.scaling import BATCH
from report.results import Results

# Parts of a bar and their colours; patterns, so that no colour has to be told from another.
TIMES = {"data": drawing.GREY, "forward": drawing.SKY, "backward": drawing.BLUE,
         "norm_comm": drawing.VERMILION, "gradient_comm": drawing.ORANGE,
         "optimizer": drawing.PURPLE}
PATTERNS = {"forward": "/", "norm_comm": "x", "gradient_comm": ".", "optimizer": "-"}
COSTS = {
    "step_ms": ("time of a step", Axis("ms", log=10)),
    "memory_mib": ("peak memory of tensors", Axis("MiB", log=10)),
    "norm_kib": ("sent for batch norm", Axis("KiB per step and rank")),
    "gradient_kib": ("sent for gradients", Axis("KiB per step and rank")),
}
# Plots of what is sent: gradients' bytes are many times batch norm's, so each has an axis.
SENT = [
    ("KiB", "KiB per step and rank", {"gradient_kib": "for gradients"}),
    ("KiB", "KiB per step and rank", {"norm_kib": "for batch norm"}),
    ("calls", "collective calls per step", {"gradient_calls": "for gradients",
                                            "norm_calls": "for batch norm"}),
]


def _costs(trials: pd.DataFrame) -> pd.DataFrame:
    """Columns in units that are read: ms, MiB, KiB; calls and bytes are of a step and a rank."""
    return trials.assign(
        step_ms=trials["cost.step_s"] * 1e3, memory_mib=trials["cost.peak_tensor_bytes"] / 2**20,
        **{f"{of}_{unit}": trials[f"cost.{of}_{column}"] / size for of in ("norm", "gradient")
           for unit, column, size in (("kib", "bytes", 2**10), ("calls", "calls", 1))})


def _cost_trials(results: Results) -> pd.DataFrame:
    """Of the experiment named cost, or else the one with the most batch sizes."""
    trials = selection.varying(selection.plotted(results, "train.batch"), "B", 2)
    if trials.empty or "cost.step_s" not in trials:
        return trials.iloc[:0]
    sizes = trials.groupby("experiment")["B"].nunique()
    return trials[trials["experiment"] == ("cost" if "cost" in sizes else sizes.idxmax())]


def _on_several_ranks(results: Results) -> pd.DataFrame:
    """Trials that differ by the number of ranks; if none do, those that show the cost."""
    trials = selection.varying(selection.plotted(results, "study.ranks"), "ranks", 2)
    if trials.empty or "cost.step_s" not in trials:
        trials = _cost_trials(results)
    return trials


def cost_frame(results: Results) -> pd.DataFrame:
    trials = _cost_trials(results)
    if trials.empty:
        return trials
    kept = [*selection.TRIAL, "ranks", "parameters", *COSTS]
    return _costs(trials)[kept].sort_values(
        ["arm", "B", "seed"], kind="stable", ignore_index=True)


def cost_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    for heading, part in selection.facets(frame):
        for column, (name, y) in COSTS.items():
            rows = part.assign(x=part["B"], y=part[column].astype(float), edge="none")
            if (rows["y"] > 0).any():
                figure = drawing.points_and_medians(rows, BATCH, y, selection.medians(rows))
                plots.append((f"{heading} · {name}", figure))
    return plots


def step_time_frame(results: Results) -> pd.DataFrame:
    """Milliseconds of a step and of its parts per trial."""
    trials = _on_several_ranks(results)
    if trials.empty:
        return trials
    parts = {name: 1e3 * trials[f"cost.{name}_s"] / trials["steps"] for name in TIMES}
    return _in_order(trials.assign(step=1e3 * trials["cost.step_s"], **parts), "step", *parts)


def sent_frame(results: Results) -> pd.DataFrame:
    """What one rank sends in a step, of trials on more than one: on one nothing is sent."""
    trials = _on_several_ranks(results)
    trials = trials[trials["ranks"] > 1]
    if trials.empty:
        return trials
    columns = [column for _, _, parts in SENT for column in parts]
    return _in_order(_costs(trials), *columns)


def _in_order(trials: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return trials[[*selection.TRIAL, "ranks", *columns]].sort_values(
        ["experiment", "arm", "ranks", "B", "seed"], kind="stable", ignore_index=True)


def step_time_plots(frame: pd.DataFrame) -> Plots:
    names = {column: column.replace("_comm", " communication") for column in TIMES}
    plots = []
    for heading, part in selection.facets(frame):
        figure = _stacks(part, names, Axis("time of a step (ms)"), "ms")
        plots.append((heading, _with_seeds(figure, part, part["step"], "whole step", "ms")))
    return plots


def sent_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    for heading, part in selection.facets(frame):
        for unit, axis, names in SENT:
            whole = part[list(names)].sum(axis=1)
            if (whole > 0).any():
                figure = _stacks(part, names, Axis(axis), unit)
                title = f"{heading} · {unit} {' and '.join(names.values())}"
                plots.append((title, _with_seeds(figure, part, whole, "in all", unit)))
    return plots


def _bars(part: pd.DataFrame) -> pd.Series:
    """What each trial's bar is called: by ranks where they vary, else by batch size."""
    by_ranks = part["ranks"].nunique() > 1 or part["B"].nunique() == 1
    return pd.Series([
        f"{row.arm}, {row.ranks} rank{'s' if row.ranks > 1 else ''}" if by_ranks else
        f"{row.arm}, B = {row.B}" for row in part.itertuples()], part.index)


def _stacks(part: pd.DataFrame, names: dict[str, str], axis: Axis, unit: str) -> go.Figure:
    """Means over seeds of some columns, as one bar for each arm and number of ranks."""
    order = list(drawing.styles(part["arm"]))
    part = part.sort_values(["arm", "ranks", "B"], kind="stable", key=lambda column: column.map(
        order.index) if column.name == "arm" else column)
    means = part.assign(bar=_bars(part)).groupby("bar", sort=False).mean(numeric_only=True)
    figure = drawing.blank(Axis(""), axis)
    for column, name in names.items():
        kind = column if column in TIMES else f"{column.split('_')[0]}_comm"
        figure.add_trace(go.Bar(
            x=drawing.categories(means.index), y=means[column], name=name,
            marker={"color": TIMES[kind], "pattern": {"shape": PATTERNS.get(kind, "")}},
            hovertemplate=f"%{{x}}<br>{name} %{{y:.4~g}} {unit}<extra></extra>"))
    figure.update_layout(barmode="stack", bargap=0.4)
    return figure


def _with_seeds(figure: go.Figure, part: pd.DataFrame, whole: pd.Series, name: str,
                unit: str) -> go.Figure:
    figure.add_trace(go.Scatter(
        x=drawing.categories(_bars(part)), y=whole, mode="markers", name=f"{name}, each seed",
        customdata=part["seed"],
        marker={"color": drawing.BLACK, "symbol": "circle-open", "size": 7},
        hovertemplate=f"%{{x}}<br>seed %{{customdata}}: %{{y:.4~g}} {unit}<extra></extra>"))
    return figure


KINDS = {
    "cost": Kind(
        "fig-cost", "Cost of a step against batch size",
        "Mean over the steps of a trial; memory is the largest held by tensors while training; "
        "bytes are those one rank sends in a step, which on one rank are none.",
        "trials at two or more batch sizes", cost_frame, cost_plots),
    "step_time": Kind(
        "fig-step-time", "Where the time of a step goes",
        "Bars are means over seeds, stacked, by the number of ranks where it varies; circles are "
        "the whole step of each seed.",
        "trials on two or more numbers of ranks, or at two or more batch sizes", step_time_frame,
        step_time_plots),
    "sent": Kind(
        "fig-sent", "What is sent in a step",
        "Bytes that one rank sends in a step and the collective calls that send them, for "
        "gradients and for batch norm; circles are the sum of each seed. On one rank nothing is "
        "sent.",
        "trials on more than one rank (study.ranks): on one rank nothing is sent", sent_frame,
        sent_plots),
}
