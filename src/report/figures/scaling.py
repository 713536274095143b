"""Figures over the batch size and the learning rate: steps, samples, seconds, rates, divergence."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from report import statistics
from report.evidence import fresh_values, median_to_target, until_target
from report.figures import drawing, selection
from report.figures.drawing import Axis
from report.figures.model import Kind, Plots
from report.results import Results

BATCH = Axis("batch size B (samples per step)", log=2)
RATE = Axis("learning rate", log=10)
RULES = ((0.5, "slope ½: square root", "dot"), (1, "slope 1: linear", "dash"))
TARGET = [*selection.TRIAL, "error", "reached", "steps", "steps_budget", "samples", "seconds",
          "seconds_budget"]


def targets_frame(results: Results) -> pd.DataFrame:
    """Targets of final trials, where at least three batch sizes were run at rates of their own:
    with one rate for all, the rate would be compared and not the batch size."""
    trials = selection.varying(selection.plotted(results, "train.batch"), "B", 3)
    trials = trials[trials["experiment"].isin(results.tuning["experiment"])]
    targets = results.targets.merge(trials[["id", "facet"]], on="id")
    return targets.reindex(columns=TARGET).sort_values(["experiment", "arm", "B", "seed"],
                                                       kind="stable", ignore_index=True)


def _target_medians(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    return pd.DataFrame([{
        "arm": arm, "x": batch, "edge": selection.worst_edge(part["edge"]),
        "y": median_to_target(part, value).value,
    } for (arm, batch), part in rows.groupby(["arm", "B"])])


def _to_target(frame: pd.DataFrame, value: str, axis: Axis, slope: bool) -> Plots:
    plots = []
    rows = _goals(frame).assign(x=frame["B"], y=until_target(frame, value))
    for heading, part in selection.facets(rows, "goal"):
        if not part["reached"].any():
            continue
        medians = _target_medians(part, value)
        figure = drawing.points_and_medians(part, BATCH, axis, medians)
        known = medians[np.isfinite(medians["y"])].sort_values("x")
        if slope and len(known):
            start = known.iloc[0]
            batches = np.array(sorted(part["x"].unique()), dtype=float)
            drawing.guide(figure, list(batches), list(start["y"] * start["x"] / batches),
                          "slope −1: perfect scaling")
        plots.append((heading, figure))
    return plots


def _goals(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(goal=[f"validation error ≤ {100 * error:g} %" for error in frame["error"]])


def steps_plots(frame: pd.DataFrame) -> Plots:
    return _to_target(frame, "steps", Axis("steps to target", log=2), slope=True)


def seconds_plots(frame: pd.DataFrame) -> Plots:
    return _to_target(frame, "seconds", Axis("seconds to target", log=10), slope=False)


def hyperbola_frame(results: Results) -> pd.DataFrame:
    """Targets that were reached, with the limits fitted to their arm's medians."""
    frame = targets_frame(results)
    parts = []
    for _, rows in frame.groupby(["experiment", "facet", "error", "arm"], sort=False):
        medians = _target_medians(rows, "steps")
        fit = statistics.hyperbola(medians["x"], medians["y"])
        parts.append(rows[rows["reached"]].assign(
            min_steps=fit.min_steps if fit else np.nan,
            min_samples=fit.min_samples if fit else np.nan,
            critical_batch=fit.critical_batch.value if fit else np.nan,
            r2=fit.r2 if fit else np.nan))
    return pd.concat(parts, ignore_index=True) if parts else frame


def hyperbola_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    x, y = Axis("steps to target", log=10), Axis("samples to target", log=10)
    for heading, part in selection.facets(_goals(frame), "goal"):
        figure = drawing.blank(x, y, part["steps"], part["samples"])
        for name, style in drawing.styles(part["arm"]).items():
            _draw_hyperbola(figure, part[part["arm"] == name], name, style)
        plots.append((heading, figure))
    return plots


def _draw_hyperbola(figure: go.Figure, rows: pd.DataFrame, name: str,
                    style: drawing.Style) -> None:
    fit, label = rows.iloc[0], drawing.plain(name)
    fitted = np.isfinite(fit["min_steps"])
    note = f" (B_crit {fit['critical_batch']:,.0f}, R² {fit['r2']:.3f})" if fitted else " (no fit)"
    figure.add_trace(go.Scatter(
        x=rows["steps"], y=rows["samples"], mode="markers", name=label + note, legendgroup=label,
        customdata=rows[["B", "seed"]],
        marker={"color": style.color, "symbol": style.symbol, "size": 8, "opacity": 0.7},
        hovertemplate=f"<b>{label}</b><br>B %{{customdata[0]}}, seed %{{customdata[1]}}<br>"
                      "%{x:,} steps, %{y:,} samples<extra></extra>"))
    if fitted:
        steps = np.geomspace(max(rows["steps"].min() * 0.8, fit["min_steps"] * 1.05),
                             rows["steps"].max() * 1.25, 80)
        samples = fit["min_samples"] / (1 - fit["min_steps"] / steps)
        figure.add_trace(go.Scatter(
            x=steps, y=samples, mode="lines", legendgroup=label, showlegend=False,
            line={"color": style.color, "dash": style.dash, "width": 1.5}, hoverinfo="skip"))


def rates_frame(results: Results) -> pd.DataFrame:
    """All tuning curves, with the facet of their cell's trials and, in `series`, all its axes.
    `fresh`: the criterion on the final trials' seeds, where the rate ran on them."""
    cells = selection.plotted(results, "train.batch", stage="tune")
    cells = cells.assign(series=selection.plotted(results, stage="tune")["facet"])
    cells = cells[["experiment", "cell", "facet", "series"]].drop_duplicates(["experiment", "cell"])
    frame = results.tuning.merge(cells, on=["experiment", "cell"])
    fresh = fresh_values(results)
    return frame.assign(fresh=[fresh.get(key, []) for key in zip(
        frame["experiment"], frame["cell"], frame["lr"])])


def best_rates_frame(results: Results) -> pd.DataFrame:
    frame = rates_frame(results)
    return selection.varying(frame[frame["chosen"].astype(bool)], "B", 2)


def best_rates_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    for heading, part in selection.facets(frame):
        rows = part.assign(x=part["B"], y=part["lr"], seed="of tuning").sort_values("x")
        figure = drawing.points_and_medians(rows.iloc[:0], BATCH, RATE, rows)
        start, batches = rows.iloc[0], np.array(sorted(rows["x"].unique()), dtype=float)
        for power, name, dash in RULES:
            drawing.guide(figure, list(batches), list(start["y"] * (batches / start["x"]) ** power),
                          name, dash)
        plots.append((heading, figure))
    return plots


def curves_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    for (experiment, arm), part in frame.groupby(["experiment", "arm"], sort=False):
        criterion = str(part["criterion"].iloc[0]).replace("_", " ")
        names = [re.sub(r"\b[a-z]+\.", "", name) or "median" for name in part["series"]]
        rows = part.assign(series=names, x=part["lr"])
        seeds = rows.explode("values").rename(columns={"values": "y"})
        seeds = seeds.assign(seed=seeds.groupby(["series", "x"]).cumcount() + 1)
        seeds = seeds[seeds["y"].notna()].astype({"y": float})
        medians = rows.assign(y=rows["median"].astype(float)).sort_values("x")
        if seeds.empty:
            continue
        fresh = rows.explode("fresh").rename(columns={"fresh": "y"}).dropna(subset="y")
        y = Axis(criterion, percent=criterion.endswith("accuracy"))
        edge = medians["edge"].where(medians["chosen"].astype(bool), "none")
        figure = drawing.points_and_medians(seeds, RATE, y,
                                            medians.assign(edge=edge), "series")
        for name, style in drawing.styles(medians["series"]).items():
            _draw_fresh(figure, fresh[fresh["series"] == name], name, style)
        if len(fresh):
            figure.add_trace(go.Scatter(
                x=[None], y=[None], mode="markers", name="fresh seeds",
                marker=_cross(drawing.GREY)))
        chosen = medians[medians["chosen"].astype(bool)]
        figure.add_trace(go.Scatter(
            x=chosen["x"], y=chosen["y"], mode="markers", name="chosen", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 18, "color": drawing.GREY,
                    "line": {"width": 1.5}}))
        plots.append((f"{experiment} · {arm}", figure))
    return plots


def _cross(color: str) -> dict:
    return {"symbol": "x-thin", "size": 7, "line": {"color": color, "width": 1.5}}


def _draw_fresh(figure: go.Figure, rows: pd.DataFrame, name: str, style: drawing.Style) -> None:
    if rows.empty:
        return
    figure.add_trace(go.Scatter(
        x=rows["x"], y=rows["y"].astype(float), mode="markers", showlegend=False,
        name=drawing.plain(name), legendgroup=drawing.plain(name),
        marker=_cross(style.color),
        hovertemplate=f"<b>{drawing.plain(name)}</b><br>a final trial's seed: %{{y:.4~g}} at "
                      "rate %{x:.4~g}<extra></extra>"))


def divergence_frame(results: Results) -> pd.DataFrame:
    frame = selection.along(results, "train.lr", 3)
    if frame.empty:
        return frame
    frame = frame[[*selection.TRIAL, "status"]]
    return frame.assign(diverged=(frame["status"] == "DIVERGED").astype(int)).sort_values(
        ["experiment", "arm", "lr"], kind="stable", ignore_index=True)


def divergence_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    y = Axis("trials that diverged", percent=True)
    for heading, part in selection.facets(frame):
        if not part["diverged"].any():
            continue
        rows = part.assign(x=part["lr"], y=part["diverged"])
        fractions = rows.groupby(["arm", "x"], as_index=False).agg(y=("y", "mean"))
        figure = drawing.points_and_medians(rows, RATE, y,
                                            fractions.assign(edge="none"))
        figure.update_traces(
            hovertemplate="learning rate %{x:.4~g}<br>diverged %{y:.0%}<extra></extra>")
        for name, style in drawing.styles(part["arm"]).items():
            _mark_half(figure, part[part["arm"] == name], style)
        figure.update_yaxes(range=[-0.06, 1.06])
        plots.append((heading, figure))
    return plots


def _mark_half(figure: go.Figure, rows: pd.DataFrame, style: drawing.Style) -> None:
    """The rate at which half diverge, with its interval, on the line of one half."""
    half = statistics.half_divergence(rows["lr"], rows["diverged"])
    if not np.isfinite(half.value) or half.value <= 0:
        return
    error = None
    if half.low is not None and half.low > 0 and np.isfinite(half.high):
        error = {"type": "data", "symmetric": False, "array": [half.high - half.value],
                 "arrayminus": [half.value - half.low], "color": style.color, "thickness": 1.5}
    figure.add_trace(go.Scatter(
        x=[half.value], y=[0.5], mode="markers", error_x=error, showlegend=False,
        marker={"symbol": "line-ns-open", "size": 14, "color": style.color, "line": {"width": 2}},
        hovertemplate="half diverge at %{x:.3~g}<extra></extra>"))


KINDS = {
    "steps": Kind(
        "fig-steps", "Steps to target against batch size",
        "Small points are seeds, large ones their Kaplan–Meier median; an open triangle is a seed "
        "that had not got there when its budget was spent. A seed that diverged never gets there: "
        "it counts in the median and has no mark. On the dashed line twice the batch needs half "
        "the steps.",
        "a target reached, at three or more batch sizes with tuned rates", targets_frame,
        steps_plots),
    "hyperbola": Kind(
        "fig-hyperbola", "Samples to target against steps to target",
        "Each point is a seed that reached the target; larger batches lie further left. Lines are "
        "(S/S_min − 1)(E/E_min − 1) = 1, fitted to the medians: B_crit = E_min/S_min is where "
        "larger batches begin to cost more samples than they save steps.",
        "a target reached, at three or more batch sizes with tuned rates", hyperbola_frame,
        hyperbola_plots),
    "lr": Kind(
        "fig-lr", "Best learning rate against batch size",
        "The rate that tuning chose for each cell, against the square-root and the linear rule "
        "drawn through the first point. An open marker is a rate at the edge of its grid: the best "
        "one may lie beyond.",
        "a learning rate tuned at two or more batch sizes", best_rates_frame, best_rates_plots),
    "tuning": Kind(
        "fig-tuning", "The whole of each learning-rate curve",
        "What the rates were chosen by: small points are tuning seeds, large ones medians, a ring "
        "is the rate that was chosen (open marker: at the edge of the grid). Thin crosses are "
        "fresh seeds: the final trials, and the neighbouring rates where the study ran them too. "
        "Rates at which a seed diverged have fewer points.",
        "a learning rate tuned by trials", rates_frame, curves_plots, most=40),
    "divergence": Kind(
        "fig-divergence", "Divergence against learning rate",
        "Fraction of the trials whose loss was not finite or above three times the first after an "
        "epoch; small points are trials, at 0 or 1. The bar at one half is the rate at which half "
        "diverge, with its 95 % interval.",
        "the learning rate as an axis, at three or more values, some of which diverge",
        divergence_frame, divergence_plots),
    "seconds": Kind(
        "fig-seconds", "Seconds to target against batch size",
        "As the steps to target, in seconds of training, evaluations not counted.",
        "a target reached, at three or more batch sizes with tuned rates", targets_frame,
        seconds_plots),
}
