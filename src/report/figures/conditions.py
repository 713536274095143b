"""Figures of training under conditions: curves, init, depth, dropout, optimizers."""

from __future__ import annotations

import dataclasses

import pandas as pd

from report.figures import drawing, selection
from report.figures.drawing import Axis
from report.figures.model import Kind, Plots
from report.results import Results

ACCURACY = Axis("final validation accuracy", percent=True)
CURVES = {
    "val_running_accuracy": ("accuracy", "validation"),
    "train_running_accuracy": ("accuracy", "training"),
    "val_running_loss": ("loss", "validation"),
    "met_loss": ("loss", "training, as met"),
}


def curves_frame(results: Results) -> pd.DataFrame:
    """Measurements of experiments in which nothing but the norm varies."""
    only_norm = [name for name in results.experiments
                 if results.axes(name) and set(results.axes(name)) <= set(selection.NORM)]
    trials = selection.plotted(results)
    trials = selection.varying(trials[trials["experiment"].isin(only_norm)], "arm", 2)
    without = trials.loc[trials["arm"] == "none", "experiment"]
    trials = trials[trials["experiment"].isin(without)]
    rows = results.measurements.drop(columns="lr").merge(trials[selection.TRIAL], on="id")
    rows = rows[rows.groupby("id")["step"].transform("nunique") >= 3]
    rows = rows.melt(id_vars=[*selection.TRIAL, "step", "epoch"], value_vars=list(CURVES),
                     var_name="measure").dropna(subset="value")
    rows["quantity"] = [CURVES[measure][0] for measure in rows["measure"]]
    rows["of"] = [CURVES[measure][1] for measure in rows["measure"]]
    return rows.drop(columns="measure").reset_index(drop=True)


def curves_plots(frame: pd.DataFrame) -> Plots:
    plots = []
    rows = frame.assign(x=frame["epoch"], y=frame["value"],
                        series=frame["arm"] + ", " + frame["of"])
    for heading, part in selection.facets(rows, "quantity"):
        loss = part["quantity"].iloc[0] == "loss"
        y = Axis("cross-entropy", log=10) if loss else Axis("accuracy", percent=True)
        looks = {}
        for arm, style in drawing.styles(part["arm"]).items():
            for of in sorted(part["of"].unique(), reverse=True):
                dash = "solid" if of == "validation" else "dot"
                looks[f"{arm}, {of}"] = dataclasses.replace(style, dash=dash)
        plots.append((heading, drawing.seeds_and_median_lines(part, Axis("epoch"), y, looks)))
    return plots


def _final(results: Results, key: str, fewest: int) -> pd.DataFrame:
    """Where the learning rate is tuned or one; divergence is shown where it is an axis itself."""
    frame = selection.along(results, key, fewest)
    swept = [name for name in results.experiments if "train.lr" in results.axes(name)]
    frame = frame[~frame["experiment"].isin(swept)]
    if frame.empty:
        return frame
    frame = frame[[*selection.TRIAL, key, "final_val_running_accuracy"]]
    return frame.dropna(subset="final_val_running_accuracy").reset_index(drop=True)


def _final_plots(frame: pd.DataFrame, x_values: pd.Series, x: Axis) -> Plots:
    rows = frame.assign(x=x_values, y=frame["final_val_running_accuracy"]).sort_values(
        "x", kind="stable")
    return [(heading, drawing.points_and_medians(part, x, ACCURACY, selection.medians(part)))
            for heading, part in selection.facets(rows)]


def init_frame(results: Results) -> pd.DataFrame:
    return _final(results, "model.init_std", 3)


def init_plots(frame: pd.DataFrame) -> Plots:
    x = Axis("standard deviation of the initial weights", log=10)
    return _final_plots(frame, frame["model.init_std"], x)


def depth_frame(results: Results) -> pd.DataFrame:
    frame = _final(results, "model.hidden", 2)
    if frame.empty:
        return frame
    depth = [len(str(sizes).split(",")) for sizes in frame["model.hidden"]]
    return selection.varying(frame.assign(depth=depth), "depth", 2)


def depth_plots(frame: pd.DataFrame) -> Plots:
    return _final_plots(frame, frame["depth"], Axis("hidden layers", log=2))


def dropout_frame(results: Results) -> pd.DataFrame:
    return _final(results, "model.dropout", 2)


def dropout_plots(frame: pd.DataFrame) -> Plots:
    return _final_plots(frame, frame["model.dropout"], Axis("probability of dropping a unit"))


def optimizers_frame(results: Results) -> pd.DataFrame:
    """`optimizer` is the name and what varies with it, such as "sgd, momentum 0.9"."""
    frame = selection.along(results, "train.optimizer", 2)
    if frame.empty:
        return frame
    names = []
    for experiment, settings in zip(frame["experiment"], frame["settings"]):
        more = [f"{key.split('.')[-1]} {settings[key]}"
                for key in results.axis_of(experiment, "train.optimizer")
                if key != "train.optimizer"]
        names.append(", ".join([settings["train.optimizer"], *more]))
    frame = frame.assign(optimizer=names)[
        [*selection.TRIAL, "optimizer", "final_val_running_accuracy"]]
    return frame.dropna(subset="final_val_running_accuracy").reset_index(drop=True)


def optimizers_plots(frame: pd.DataFrame) -> Plots:
    plots = _final_plots(frame, frame["optimizer"], Axis("optimizer"))
    for _, figure in plots:
        figure.update_traces(mode="markers", selector={"mode": "lines+markers"})
        figure.update_xaxes(type="category")
    return plots


KINDS = {
    "curves": Kind(
        "fig-curves", "Learning curves with and without batch norm",
        "Thin lines are seeds, thick ones their median; training is dotted. Training loss is that "
        "of the batches as they were met; validation uses running statistics.",
        "an experiment in which only the norm varies, evaluated three or more times", curves_frame,
        curves_plots),
    "init": Kind(
        "fig-init", "Accuracy against the scale of the initial weights",
        "Small points are seeds, large ones medians. Trials that diverged have no point.",
        "model.init_std as an axis, at three or more values", init_frame, init_plots),
    "depth": Kind(
        "fig-depth", "Accuracy against depth",
        "Small points are seeds, large ones medians. Trials that diverged have no point.",
        "model.hidden as an axis, at two or more depths", depth_frame, depth_plots),
    "dropout": Kind(
        "fig-dropout", "Accuracy against dropout",
        "Small points are seeds, large ones medians.",
        "model.dropout as an axis", dropout_frame, dropout_plots),
    "optimizers": Kind(
        "fig-optimizers", "Accuracy under each optimizer",
        "Small points are seeds, large ones medians.",
        "train.optimizer as an axis", optimizers_frame, optimizers_plots),
}
