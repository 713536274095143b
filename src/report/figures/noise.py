"""Figures of noise: error against M, evaluation, noise law, gradient noise scale, units."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from report.figures import drawing, selection
from report.figures.drawing import Axis, Style
from report.figures.model import Kind, Plots
from report.results import Results

STEP = Axis("step")
ERRORS = {
    "final_val_running_accuracy": "validation, running statistics",
    "final_val_batch_accuracy": "validation, batch statistics",
    "final_train_batch_accuracy": "training, batch statistics",
}
SMOOTHED = 5  # evaluations over which the noise scale's two parts are averaged, apart


def error_m_frame(results: Results) -> pd.DataFrame:
    """One row per trial and way of evaluating; the other norms at the same B have M = 0."""
    trials = selection.plotted(results, "norm.batch", "train.batch")
    normed = trials[trials["M"] > 0]
    normed = normed[normed.groupby(["experiment", "facet", "B"])["M"].transform("nunique") >= 3]
    same_b = normed[["experiment", "facet", "B"]].drop_duplicates()
    controls = trials[trials["M"] == 0].merge(same_b, on=["experiment", "facet", "B"])
    rows = pd.concat([normed, controls])
    rows = rows.melt(id_vars=selection.TRIAL, value_vars=list(ERRORS), var_name="evaluation",
                     value_name="accuracy")
    rows["error"] = 1 - rows["accuracy"].astype(float)
    return rows.replace({"evaluation": ERRORS}).drop(columns="accuracy").dropna(
        subset="error").sort_values(["experiment", "B", "evaluation", "M", "seed"], kind="stable",
                                    ignore_index=True)


def error_m_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    rows = frame.assign(x=frame["M"], y=frame["error"], size=[f"B = {b}" for b in frame["B"]])
    for heading, part in selection.facets(rows, "size"):
        normed = part[part["M"] > 0].astype({"y": float})
        figure = drawing.points_and_medians(
            normed, Axis("normalization batch M (samples)", log=2), Axis("error", percent=True),
            selection.medians(normed, "evaluation"), "evaluation")
        ends = [float(normed["x"].min()), float(normed["x"].max())]
        running = part[part["evaluation"] == ERRORS["final_val_running_accuracy"]]
        for (arm, control), dash in zip(running[running["M"] == 0].groupby("arm"), ("dot", "dash")):
            drawing.guide(figure, ends, [control["y"].median()] * 2, f"{arm}: validation", dash)
        plots.append((heading, figure))
    return plots


def heatmap_frame(results: Results) -> pd.DataFrame:
    """Median validation error of each (B, M), where both vary and some B has three or more M."""
    trials = selection.plotted(results, "train.batch", "norm.batch")
    trials = trials[trials["M"] > 0]
    trials = selection.varying(selection.varying(trials, "B", 2), "M", 2)
    sizes = trials.groupby(["experiment", "facet", "B"])["M"].transform("nunique")
    trials = trials[trials["experiment"].isin(trials.loc[sizes >= 3, "experiment"])]
    trials = trials.assign(error=1 - trials["final_val_running_accuracy"].astype(float))
    return trials.groupby(["experiment", "facet", "B", "M"], as_index=False, sort=False).agg(
        error=("error", "median"), seeds=("seed", "nunique"), lr=("lr", "median"),
        edge=("edge", selection.worst_edge)).dropna(subset="error")


def heatmap_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    for heading, part in selection.facets(frame):
        grid = part.pivot(index="B", columns="M", values="error")
        figure = drawing.blank(Axis("normalization batch"), Axis("batch size"))
        texts = part.assign(text=[
            f"<b>{row.error:.2%}</b><br>{row.lr:.3g}{'' if row.edge == 'none' else ' *'}"
            for row in part.itertuples()]).pivot(index="B", columns="M", values="text").fillna("")
        figure.add_trace(go.Heatmap(
            x=[f"M = {m}" for m in grid.columns], y=[f"B = {b}" for b in grid.index],
            z=grid.to_numpy(), text=texts.to_numpy(), texttemplate="%{text}",
            colorscale="Cividis", reversescale=True, hoverongaps=False, xgap=2, ygap=2,
            colorbar={"title": {"text": "error"}, "tickformat": ".1%", "thickness": 12},
            hovertemplate="%{y}, %{x}<br>validation error %{z:.2%}<extra></extra>"))
        figure.update_layout(showlegend=False)
        figure.update_xaxes(type="category", showgrid=False)
        figure.update_yaxes(type="category", showgrid=False)
        plots.append((heading, figure))
    return plots


def noise_law_frame(results: Results) -> pd.DataFrame:
    trials = selection.plotted(results)[selection.TRIAL]
    return results.noise_law.merge(trials, on="id").sort_values(["layer", "m"], kind="stable",
                                                                ignore_index=True)


def noise_law_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    of = {"mean_noise": ("variance of the batch mean", "Var(μ) / σ²"),
          "variance_noise": ("variance of the batch variance", "Var(σ²) / σ⁴")}
    for heading, part in selection.facets(frame):
        for column, (title, label) in of.items():
            rows = part.assign(x=part["m"], y=part[column],
                               series=[f"layer {layer}" for layer in part["layer"]])
            figure = drawing.points_and_medians(rows, Axis("normalization batch M", log=2),
                                                Axis(label, log=10),
                                                selection.medians(rows, "series"), "series")
            for i, (_, theory) in enumerate(rows.groupby("series")):
                line = theory.groupby("m")[f"{column}_theory"].median()
                drawing.guide(figure, list(line.index), list(line), "theory", in_legend=i == 0)
            plots.append((f"{heading} · {title}", figure))
    return plots


def evaluation_frame(results: Results) -> pd.DataFrame:
    """Full evaluations of networks with batch norm that were evaluated so at least three times."""
    trials = selection.plotted(results)
    rows = results.measurements.merge(trials[trials["M"] > 0][selection.TRIAL], on="id",
                                      suffixes=("", "_trial"))
    rows = rows[rows["val_recomputed_accuracy"].notna()]
    rows = rows[rows.groupby("id")["step"].transform("nunique") >= 3]
    columns = [f"val_{s}_accuracy" for s in ("running", "recomputed", "batch")]
    return rows[[*selection.TRIAL, "step", "epoch", *columns]].reset_index(drop=True)


def evaluation_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    for heading, part in selection.facets(frame, "arm"):
        rows = part.melt(id_vars=["epoch", "seed"], value_name="y", var_name="series", value_vars=[
            "val_running_accuracy", "val_recomputed_accuracy", "val_batch_accuracy"])
        rows["series"] = rows["series"].map(lambda name: f"{name.split('_')[1]} statistics")
        figure = drawing.seeds_and_median_lines(
            rows.rename(columns={"epoch": "x"}), Axis("epoch"),
            Axis("validation accuracy", percent=True))
        plots.append((heading, figure))
    return plots


def noise_scale_frame(results: Results) -> pd.DataFrame:
    """B_simple = S / G², each averaged over neighbouring evaluations first."""
    trials = selection.plotted(results)[selection.TRIAL]
    rows = results.noise_scale.merge(trials, on="id").sort_values(["id", "step"], kind="stable")
    for column in ("noise", "gradient_norm2"):
        rows[f"smooth_{column}"] = rows.groupby("id")[column].transform(
            lambda values: values.rolling(SMOOTHED, center=True, min_periods=1).mean())
    gradient = rows["smooth_gradient_norm2"].astype(float)
    rows["noise_scale"] = (rows["smooth_noise"] / gradient).where(gradient > 0)
    rows = rows[rows["noise_scale"] > 0]
    return rows.reset_index(drop=True)


def noise_scale_plots(frame: pd.DataFrame) -> Plots:
    rows = frame.rename(columns={"step": "x", "noise_scale": "y", "arm": "series"})
    return [(heading, drawing.seeds_and_median_lines(
        part, STEP, Axis("noise scale B_simple (samples)", log=10)))
        for heading, part in selection.facets(rows)]


def units_frame(results: Results) -> pd.DataFrame:
    """The lowest seed of each cell."""
    trials = selection.plotted(results)[selection.TRIAL]
    rows = results.units.merge(trials, on="id")
    return rows[rows["seed"] == rows.groupby(["experiment", "cell"])["seed"].transform("min")]


def units_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    looks = [Style(drawing.BLUE, "solid", "circle"), Style(drawing.VERMILION, "dash", "square"),
             Style(drawing.GREEN, "dot", "diamond")]
    for heading, part in selection.facets(frame, "arm"):
        figure = drawing.blank(STEP, Axis("input of the unit"))
        for unit, look in zip(sorted(part["unit"].unique()), looks):
            rows = part[part["unit"] == unit].sort_values("step")
            for column, width in (("p15", 1), ("p50", 2.5), ("p85", 1)):
                figure.add_trace(go.Scatter(
                    x=rows["step"], y=rows[column], mode="lines", name=f"unit {unit}",
                    legendgroup=str(unit), showlegend=column == "p50",
                    line={"color": look.color, "dash": look.dash, "width": width},
                    hovertemplate=f"unit {unit}, {column[1:]}th percentile<br>step %{{x}}: "
                                  "%{y:.3g}<extra></extra>"))
        plots.append((heading, figure))
    return plots


KINDS = {
    "error_m": Kind(
        "fig-error-m", "Error against the normalization batch",
        "B is held, so that the gradient's noise stays and only the noise of the batch statistics "
        "moves. Small points are seeds, large ones medians; grey lines are the other norms.",
        "three or more values of M at one B", error_m_frame, error_m_plots),
    "heatmap": Kind(
        "fig-heatmap", "Batch size by normalization batch",
        "Median validation error; below it the learning rate that tuning chose. A star marks a "
        "rate at the edge of its grid.",
        "batch sizes B and normalization batches M that vary apart", heatmap_frame, heatmap_plots),
    "noise_law": Kind(
        "fig-noise-law", "Noise of the batch statistics against M",
        "Measured on a frozen network; the dashed line is the theory, 1/M for the mean and "
        "(κ − 1)/M for the variance, with the measured kurtosis κ.",
        "the noise law of a frozen network (measure.noise_law)", noise_law_frame, noise_law_plots),
    "evaluation": Kind(
        "fig-evaluation", "Running, recomputed and batch statistics in evaluation",
        "The same networks evaluated three ways. Thin lines are seeds, thick ones their median.",
        "three or more full evaluations of a network with batch norm", evaluation_frame,
        evaluation_plots),
    "noise_scale": Kind(
        "fig-noise-scale", "Gradient noise scale over training",
        "The batch size at which the gradient's noise equals its signal, S/G², both averaged over "
        f"{SMOOTHED} evaluations. Thin lines are seeds, thick ones their median.",
        "measurements of the gradient noise scale (measure.noise_scale)", noise_scale_frame,
        noise_scale_plots),
    "units": Kind(
        "fig-units", "Inputs of single units over training",
        "15th, 50th (thick) and 85th percentile of the input of units of the last hidden layer, "
        "over the training set, one seed. With batch norm they should stay in place.",
        "percentiles of units (measure.units)", units_frame, units_plots),
}
