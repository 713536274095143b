"""The figure of the norm layers over training: one plot per quantity of layers.csv."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from report.figures import drawing, selection
from report.figures.drawing import Axis
from report.figures.model import Kind, Plots
from report.results import Results

STEP = Axis("step")
SHOWN = 4  # layers of a network, from the first to the last; the CSV file has all
FEWEST = 3  # steps that make a course


@dataclass(frozen=True)
class Quantity:
    title: str
    axis: Axis
    columns: tuple[tuple[str, str], ...]  # columns, each with what tells its line apart
    theory: str = ""  # column
    at: float | None = None  # what it should be


OF_MEANS, OF_VARIANCES = Axis("Var(μ) / σ²", log=10), Axis("Var(σ²) / σ⁴", log=10)
COURSES = [
    Quantity("noise of the batch mean", OF_MEANS, (("mean_noise", ""),), "mean_noise_theory"),
    Quantity("noise of the batch variance", OF_VARIANCES, (("variance_noise", ""),),
             "variance_noise_theory"),
    Quantity("variance between the means of shards", OF_MEANS, (("shard_noise", ""),)),
    Quantity("variance between the variances of shards", OF_VARIANCES,
             (("shard_variance_noise", ""),)),
    Quantity("running mean against the population's", Axis("|μ_running − μ| / σ", log=10),
             (("running_mean_gap", ""),)),
    Quantity("running variance against the population's", Axis("log(σ²_running / σ²)"),
             (("running_variance_gap", ""),), at=0.0),
    Quantity("weight of the first values in the running statistics", Axis("weight", percent=True),
             (("initial_weight", ""),)),
    Quantity("dead units", Axis("share of units", percent=True), (("dead", ""),)),
    Quantity("effective learning rate of the weights before the layer",
             Axis("η / ‖w‖²", log=10), (("effective_lr", ""),)),
    Quantity("backward gain of a unit", Axis("gain", log=10),
             (("gain_median", "median"), ("gain_p99", "99 %")), at=1.0),
]
COLUMNS = ["step", "layer", "m", "mean_noise", "mean_noise_theory", "variance_noise",
           "variance_noise_theory", "kurtosis", "shard_noise", "shard_variance_noise",
           "running_mean_gap", "running_variance_gap", "initial_weight", "dead", "effective_lr",
           "gain_median", "gain_p99"]


def layers_frame(results: Results) -> pd.DataFrame:
    """Norm layers of networks measured at three steps or more. A layer's effective learning rate
    is that of the linear layer before it."""
    trials = selection.plotted(results)[selection.TRIAL]
    rows = results.layers.merge(trials, on="id")
    rows = rows[rows.groupby("id")["step"].transform("nunique") >= FEWEST]
    if rows.empty:
        return rows
    place = {trial: i for i, trial in enumerate(rows["id"].unique())}  # as the study has them
    rows = rows.sort_values(["id", "step", "layer"], kind="stable", key=lambda column: column.map(
        place) if column.name == "id" else column)
    # Only linear layers have one of their own.
    rows = rows.assign(effective_lr=rows.groupby(["id", "step"])["effective_lr"].ffill())
    rows = rows[rows["type"] == "BatchNorm1d"]
    return rows[[*selection.TRIAL, *COLUMNS]].reset_index(drop=True)


def layers_plots(frame: pd.DataFrame) -> Plots:
    """All quantities of a network before those of the next."""
    networks = selection.facets(frame, "arm")
    return [(f"{heading} · {quantity.title}", _course(quantity, rows))
            for heading, rows in _ends_first(networks) for quantity in COURSES
            if rows[[column for column, _ in quantity.columns]].notna().any(axis=None)]


def _ends_first(networks: list) -> list:
    """The first and the last, which differ most, before those between."""
    return [*networks[:1], *networks[:0:-1][:1], *networks[1:-1]]


def _course(quantity: Quantity, rows: pd.DataFrame) -> go.Figure:
    rows = rows[rows["layer"].isin(_shown(sorted(rows["layer"].unique())))]
    parts, looks = [], {}
    names = {layer: f"layer {layer}" for layer in sorted(rows["layer"].unique())}
    styles = drawing.styles(names.values())
    for layer, name in names.items():
        of_layer = rows[rows["layer"] == layer]
        for i, (column, kind) in enumerate(quantity.columns):
            series = f"{name}, {kind}" if kind else name
            looks[series] = (dataclasses.replace(styles[name], dash="dot" if i else "solid")
                             if kind else styles[name])
            parts.append(of_layer.assign(x=of_layer["step"], y=of_layer[column], series=series))
    values = pd.concat(parts).dropna(subset="y")
    figure = drawing.seeds_and_median_lines(values, STEP, quantity.axis, looks)
    if quantity.theory:
        for i, (_, of_layer) in enumerate(rows.groupby("layer")):
            line = of_layer.groupby("step")[quantity.theory].median()
            drawing.guide(figure, list(line.index), list(line), "theory", in_legend=i == 0)
    if quantity.axis.percent:
        figure.update_yaxes(rangemode="nonnegative")  # shares, which may all be 0
    if quantity.at is not None:
        drawing.guide(figure, [float(rows["step"].min()), float(rows["step"].max())],
                      [quantity.at] * 2, f"{quantity.at:g}", in_legend=False)
    return figure


def _shown(layers: list) -> list:
    """At most SHOWN of them, evenly apart, the first and the last among them."""
    if len(layers) <= SHOWN:
        return layers
    return [layers[i] for i in np.linspace(0, len(layers) - 1, SHOWN).round().astype(int)]


KINDS = {
    "layers": Kind(
        "fig-layers", "Inside the norm layers over training",
        "For each norm layer, by its place in the network: the noise of its batch statistics "
        "beside theory (dashed), how far running statistics are from the population's and how much "
        "of their first values is left, units that are always 0, the learning rate over the "
        "squared norm of the weights before it, and by how much its backward pass scales squared "
        "gradients. Thin lines are seeds, thick ones their median; of deep networks "
        f"{SHOWN} layers are drawn.",
        "layers measured at three or more evaluations (measure.layers = full)", layers_frame,
        layers_plots, most=2 * len(COURSES)),
}
