"""Which trials a figure is of: chosen by the axes along which they vary, not by name."""

from __future__ import annotations

import pandas as pd

from report.results import Results

NORM = ("norm.kind", "norm.batch")
TRIAL = ["id", "experiment", "facet", "cell", "arm", "B", "M", "lr", "edge", "seed"]


def plotted(results: Results, *x_keys: str, stage: str = "final") -> pd.DataFrame:
    """Trials with a column `facet`: the values of those axes of their experiment that are neither
    x, nor paired with it, nor the norm. Trials of one facet differ by x, arm and seed alone."""
    trials = results.trials[results.trials["stage"] == stage]
    shown = {name: {*NORM, *x_keys}.union(*(results.axis_of(name, key) for key in x_keys))
             for name in trials["experiment"].unique()}
    facets = [describe({key: value for key, value in settings.items() if key not in shown[name]})
              for name, settings in zip(trials["experiment"], trials["settings"])]
    return trials.assign(facet=facets).astype({"facet": str})


def describe(settings: dict[str, str]) -> str:
    """For instance "train.batch = 64, model.hidden = 128 × 5"."""
    return ", ".join(f"{key} = {in_short(value)}" for key, value in settings.items())


def in_short(value: object) -> str:
    """A list whose values are all alike as one of them and their number."""
    sizes = str(value).split(",")
    alike = len(sizes) > 2 and len(set(sizes)) == 1
    return f"{sizes[0]} × {len(sizes)}" if alike else str(value)


def varying(frame: pd.DataFrame, column: str, fewest: int) -> pd.DataFrame:
    """Of each experiment and facet, those in which the column takes so many values."""
    if frame.empty or column not in frame:
        return frame.iloc[:0]
    counts = frame.groupby(["experiment", "facet"])[column].transform("nunique")
    return frame[counts >= fewest]


def along(results: Results, key: str, fewest: int) -> pd.DataFrame:
    """Final trials of experiments that have this key as an axis, alone or paired with others."""
    trials = plotted(results, key)
    moved = [name for name in results.experiments if results.axis_of(name, key)]
    return varying(trials[trials["experiment"].isin(moved)], key, fewest)


def medians(frame: pd.DataFrame, group: str = "arm") -> pd.DataFrame:
    """Median of y per group and x; its edge is that of any of its cells."""
    grouped = frame.groupby([group, "x"], as_index=False, sort=True)
    return grouped.agg(y=("y", "median"), edge=("edge", worst_edge))


def worst_edge(edges: pd.Series) -> str:
    return next((edge for edge in edges if edge != "none"), "none")


def facets(frame: pd.DataFrame, *more: str) -> list[tuple[str, pd.DataFrame]]:
    """(heading, rows) of each experiment and facet, in the order of the study."""
    keys = ["experiment", "facet", *more]
    parts = []
    for values, rows in frame.groupby(keys, sort=False):
        named = dict(zip(keys, values))
        parts.append((" · ".join(str(named[key]) for key in keys if named[key] != ""), rows))
    return parts
