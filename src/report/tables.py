"""The tables of the page, as text: batch sizes, published numbers, cost, trials, gaps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from report import published
from report.checks_scaling import noise_scales
from report.evidence import UnknownAxis, finals, settings
from report.figures import cost, selection
from report.results import Results

AT_EDGE = "†"  # a learning rate at the grid's edge
# Of training under recomputed statistics to validation under them, one change after another.
GAP_COLUMNS = ["final_train_recomputed_accuracy", "final_train_batch_accuracy",
               "final_val_batch_accuracy", "final_val_recomputed_accuracy"]
GAP_NOTE = (
    "Named after Wu and Johnson 2021, at the end of training; the parts add up to validation error "
    "minus training error, both under population statistics (recomputed over training samples). "
    "Training noise: training error under batch statistics minus that under population "
    "statistics. Generalization gap: validation minus training error, both under batch "
    "statistics. Train–test inconsistency: validation error under population statistics minus "
    "that under batch statistics.")
NOTHING_SENT = ("All of these ran on one rank, on which nothing is sent: bytes and calls of a step "
                "take trials on more (study.ranks).")


@dataclass(frozen=True)
class Table:
    caption: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def spread(values: pd.Series, form: str = ".2f", unit: str = "") -> str:
    """Mean ± standard deviation of a few seeds."""
    values = values.dropna().astype(float)
    if values.empty:
        return "–"
    deviation = f" ± {values.std():{form}}" if len(values) > 1 else ""
    text = f"{values.mean():{form}}{deviation}{unit}"
    return text.replace(" ", "\N{NO-BREAK SPACE}").replace("-", "−")


def number(value: object, form: str = ",.4g") -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return f"{value:{form}}" if isinstance(value, (int, float, np.number)) else str(value)


def rates(rows: pd.DataFrame) -> str:
    """The learning rates of some trials, marked if at an edge."""
    marked = {f"{lr:.4g}" + (AT_EDGE if edge != "none" else "")
              for lr, edge in zip(rows["lr"], rows["edge"])}
    return ", ".join(sorted(marked))


def title_of(results: Results, name: str) -> str:
    """The experiment's own title, if it has one, and its name."""
    for study in results.studies:
        for experiment in study["experiments"]:
            title = experiment.get("title")
            if experiment["name"] == name and title not in (None, "", name, study.get("title")):
                return f"{title} ({name})"
    return name


def _training_loss(results: Results, ids: pd.Series) -> pd.Series:
    """Mean loss of the batches of the last epoch, as met, of each trial: what notebooks print."""
    rows = results.measurements[results.measurements["id"].isin(ids)].dropna(subset="met_loss")
    last = rows.groupby("id")["epoch"].transform("max")
    return rows[rows["epoch"] > last - 1 + 1e-9].groupby("id")["met_loss"].mean()


def batch_tables(results: Results) -> list[Table]:
    """One for each experiment that varies nothing but B or M; the notebook's own table beside."""
    tables = []
    for name in results.experiments:
        axes = set(results.axes(name))
        if not axes or axes - {"train.batch", "norm.batch"}:
            continue
        trials = results.finals[results.finals["experiment"] == name]
        printed = published.NOTEBOOK_TABLE if name == published.NOTEBOOK_EXPERIMENT else {}
        rows = []
        for (batch, m, arm), cell in trials.groupby(["B", "M", "arm"]):
            accuracy, loss = printed.get(batch, (None, None))
            beside = [number(accuracy, ".2f") + " %" if accuracy else "–", number(loss, ".4f")]
            rows.append([f"{batch:,}", str(m) if m else arm, rates(cell),
                         spread(100 * cell["final_val_running_accuracy"], unit=" %"),
                         spread(100 * cell["final_train_running_accuracy"], unit=" %"),
                         spread(_training_loss(results, cell["id"]), ".4f"),
                         spread(cell["seconds"], ".1f"),
                         *_medians(cell, "cost.peak_tensor_bytes", unit=2**20),
                         *(beside if printed else []), _seeds(cell)])
        if rows:
            heads = ["printed accuracy", "printed loss"] if printed else []
            tables.append(Table(
                title_of(results, name),
                ["B", "M", "learning rate", "validation accuracy", "training accuracy",
                 "training loss, last epoch", "seconds", "memory (MiB)", *heads, "seeds"], rows,
                "The notebook prints its table without a run behind it." if printed else ""))
    return tables


def _seeds(cell: pd.DataFrame) -> str:
    """How many there are; means are of those that did not diverge."""
    lost = int((cell["status"] == "DIVERGED").sum())
    return str(len(cell)) + (f", {lost} diverged" if lost else "")


def gap_tables(results: Results) -> list[Table]:
    """Wu and Johnson's three parts of the gap between training and validation error, of each
    experiment that varies M and was measured under batch and under recomputed statistics."""
    tables = []
    for name in results.experiments:
        if not {"norm.batch", "train.batch"} & set(results.axes(name)):
            continue
        trials = selection.plotted(results.experiment(name), "train.batch")
        trials = trials[trials["M"] > 0].dropna(subset=GAP_COLUMNS)
        trials = _told_apart(
            trials, [*results.axis_of(name, "train.batch"), *selection.NORM])
        error = {key: 100 * (1 - trials[column].astype(float))
                 for key, column in zip(("train", "train_batch", "val_batch", "val"), GAP_COLUMNS)}
        trials = trials.assign(
            train=error["train"], noise=error["train_batch"] - error["train"],
            generalization=error["val_batch"] - error["train_batch"],
            inconsistency=error["val"] - error["val_batch"], val=error["val"])
        rows = [[facet or "–", f"{batch:,}", str(m),
                 *(spread(cell[part], unit=" %" if part in ("train", "val") else " pt")
                   for part in ("train", "noise", "generalization", "inconsistency", "val")),
                 str(len(cell))]
                for (facet, batch, m), cell in trials.groupby(["facet", "B", "M"])]
        if rows:
            tables.append(_without_setting(Table(f"{title_of(results, name)}: parts of the gap", [
                "setting", "B", "M", "training error", "training noise", "generalization gap",
                "train–test inconsistency", "validation error", "seeds"], rows)))
    if tables:
        tables[-1] = dataclasses.replace(tables[-1], note=GAP_NOTE)
    return tables


def _told_apart(trials: pd.DataFrame, hidden: list[str]) -> pd.DataFrame:
    """With those of the keys that facets hide in `facet` that differ within one B and M."""
    values = {key: settings(trials, key) for key in hidden if key != "train.batch"}
    cells = [trials[column] for column in ("facet", "B", "M")]
    apart = [key for key, of in values.items() if (of.groupby(cells).nunique() > 1).any()]
    added = [selection.describe({key: values[key][i] for key in apart}) for i in trials.index]
    return trials.assign(facet=[", ".join(filter(None, both))
                                for both in zip(trials["facet"], added)])


def published_table(results: Results) -> Table | None:
    rows = [[each.row.source, each.row.what, each.row.printed, each.row.mark,
             spread(100 * each.values, unit=" %"), each.experiment, rates(each.trials),
             str(len(each.values)),
             _departures(each.trials, each.row)]
            for each in published.beside_ours(results)]
    try:
        averages = noise_scales(results, "none")["average"]
    except UnknownAxis:  # S10 says so
        averages = pd.Series(dtype=float)
    if len(averages):
        row = published.NOISE_SCALE
        [experiment] = row.experiments
        trials = row.ours(finals(results, experiment))
        # One lost trial leaves no mean, as in S10.
        shown = averages if averages.notna().all() else averages[:0]
        rows.append([row.source, row.what, row.printed, row.mark, spread(shown, ",.0f"), experiment,
                     rates(trials), str(len(averages)), _departures(trials, row)])
    columns = ["source", "what", "printed", "how known", "ours", "experiment", "learning rate",
               "seeds", "in what ours differs"]
    return Table("Printed numbers and ours, mean ± standard deviation over seeds", columns, rows,
                 "Where ours differs, compare gaps and not levels; differences below 0.3 points "
                 "mean nothing in any row. Groups of 250 stand for the M = 256 of Keskar's large "
                 "batch, which 256 does not divide.") if rows else None


def _departures(trials: pd.DataFrame, row: published.Published) -> str:
    return "; ".join(published.departures(trials, row.settings)) or "nothing known"


def cost_tables(results: Results) -> list[Table]:
    """Of a step: time and memory by batch size, and time and what is sent by ranks."""
    tables = []
    if len(frame := cost.cost_frame(results)):
        rows = [[str(arm), str(ranks), f"{batch:,}", *_medians(cell, "step_ms"),
                 number(batch / cell["step_ms"].astype(float).median() * 1e3, ",.0f"),
                 *_medians(cell, "memory_mib")]
                for (arm, ranks, batch), cell in frame.groupby(["arm", "ranks", "B"])]
        tables.append(Table(
            f"{title_of(results, frame['experiment'].iloc[0])}: medians over seeds; memory held by "
            "tensors while training",
            ["norm", "ranks", "B", "step (ms)", "samples/s", "memory (MiB)"], rows))
    sent = cost.sent_frame(results)
    if sent.empty:
        return [dataclasses.replace(table, note=NOTHING_SENT) for table in tables]
    times = cost.step_time_frame(results).merge(
        sent[["id", *set(sent) - {*selection.TRIAL, "ranks"}]], on="id", how="left")
    return tables + [_ranks_table(title_of(results, experiment), rows)
                     for experiment, rows in times.groupby("experiment", sort=False)]


def _ranks_table(title: str, trials: pd.DataFrame) -> Table:
    sent = {column: f"{unit} {name}" for unit, _, names in cost.SENT
            for column, name in names.items()}
    rows = [[facet or "–", str(arm), f"{batch:,}", str(ranks),
             *_medians(cell, "step", "norm_comm", "gradient_comm"),
             *(_medians(cell, *sent) if ranks > 1 else ["nothing"] * len(sent))]
            for (facet, arm, batch, ranks), cell in trials.groupby(["facet", "arm", "B", "ranks"])]
    columns = ["setting", "norm", "B", "ranks", "step (ms)", "batch norm communication (ms)",
               "gradient communication (ms)", *sent.values()]
    return _without_setting(Table(
        f"{title}: medians over seeds; KiB and calls of one rank in one step", columns, rows,
        "On one rank nothing is sent."))


def _without_setting(table: Table) -> Table:
    """Less the first column where no row has a setting."""
    if any(row[0] != "–" for row in table.rows):
        return table
    return dataclasses.replace(table, columns=table.columns[1:],
                               rows=[row[1:] for row in table.rows])


def _medians(cell: pd.DataFrame, *columns: str, unit: float = 1) -> list[str]:
    return [number(cell[column].astype(float).median() / unit) if column in cell else "–"
            for column in columns]


def divergences(results: Results) -> Table | None:
    lost = results.trials[results.trials["status"] == "DIVERGED"]
    rows = []
    for (experiment, _, stage), part in lost.groupby(["experiment", "cell", "stage"], sort=False):
        first = str(part["reason"].iloc[0]).split(": ")[0]
        rows.append([experiment, selection.describe(part["settings"].iloc[0]), stage,
                     str(len(part)), rates(part), first])
    return Table("Trials that diverged; they are kept, never dropped", [
        "experiment", "cell", "stage", "trials", "learning rate", "the first of them"], rows,
    ) if rows else None


def missing(results: Results) -> Table | None:
    rows = [[row.experiment, row.cell, str(row.planned), str(row.found)]
            for row in results.missing.itertuples() if not row.waits]
    return Table("Trials that have not come to an end", [
        "experiment", "cell", "planned", "found"], rows) if rows else None


def waiting(results: Results) -> Table | None:
    rows = [[row.experiment, row.cell, str(row.planned), f"mpirun -n {row.waits}"]
            for row in results.missing.itertuples() if row.waits]
    return Table("Trials that need more ranks than the study had", [
        "experiment", "cell", "planned", "waits for"], rows) if rows else None


def dropped(results: Results) -> Table | None:
    rows = [[e["name"], str(d["cell"]), str(d["reason"])]
            for s in results.studies for e in s["experiments"] for d in e.get("dropped", [])]
    return Table("Cells that cannot run and were left out of the plan", [
        "experiment", "cell", "reason"], rows) if rows else None
