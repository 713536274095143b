"""Reads result trees of studies into pandas frames: a row per trial, target or measurement."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from report import files, shapes
from report.files import ReportError, Unfit

FORMAT = 1  # of study.json
FINISHED = ("COMPLETE", "DIVERGED")

METRICS = [f"{split}_{statistics}_{value}" for split in ("train", "val", "test")
           for statistics in ("running", "recomputed", "batch") for value in ("loss", "accuracy")]
COSTS = ["data_s", "forward_s", "backward_s", "norm_comm_s", "gradient_comm_s", "optimizer_s",
         "evaluation_s", "probe_s", "step_s", "peak_tensor_bytes", "norm_calls", "norm_bytes",
         "gradient_calls", "gradient_bytes"]

TRIAL = ["study", "experiment", "cell", "trial", "id", "stage", "seed", "status", "B", "M", "lr",
         "arm", "edge", "fallback", "steps", "epochs", "samples", "seconds", "stopped", "reason",
         "ranks", "parameters", "device", "host", "first_rank", "started", "finished",
         "versions", "arithmetic", "stop", "settings"]
OF_TARGET = ["experiment", "cell", "stage", "seed", "arm", "B", "M", "lr", "edge"]
REACHED = ["steps", "samples", "epochs", "seconds"]
# What a trial spent, whatever it reached.
BUDGETS = {f"{unit}_budget": unit for unit in ("steps", "samples", "seconds")}
TARGET = ["id", "error", *REACHED, *BUDGETS, "reached", *OF_TARGET]
TUNING = ["study", "experiment", "cell", "arm", "B", "M", "lr", "median", "diverged", "values",
          "chosen", "edge", "fallback", "criterion"]
# `waits`: the ranks that a cell needs if the study had too few of them for any of its trials, or 0.
MISSING = ["study", "experiment", "cell", "planned", "found", "waits"]

# Each CSV file of a trial, and its columns.
TABLES = {
    "measurements": ["step", "epoch", "samples", "seconds", "lr", "met_loss", *METRICS],
    "layers": ["step", "layer", "name", "type", "weight_norm", "gradient_norm", "effective_lr", "m",
               "mean_noise", "mean_noise_theory", "variance_noise", "variance_noise_theory",
               "kurtosis", "shard_noise", "shard_variance_noise", "running_mean_gap",
               "running_variance_gap", "initial_weight", "dead", "gain_median", "gain_p99",
               "group_gradient_median", "group_gradient_p99"],
    "noise_law": ["layer", "m", "draws", "mean_noise", "mean_noise_theory", "variance_noise",
                  "variance_noise_theory"],
    "noise_scale": ["step", "small_batch", "big_batch", "small_norm2", "big_norm2",
                    "gradient_norm2", "noise"],
    "units": ["step", "unit", "p15", "p50", "p85"],
}
TEXT = ("name", "type")  # columns of them that are no numbers
# Options that older studies lack, and what held in them; columns that they did not measure.
ADDED_OPTIONS = {"data.augment": "none"}
ADDED_COLUMNS = ("shard_variance_noise", "initial_weight")
# Files that a study writes anew by themselves; any other is of a trial and is lost with it.
ALONE = ("study.json", "cell.json", "tuning.json")


@dataclass(frozen=True)
class Results:
    """Trials that are COMPLETE or DIVERGED, and what is known of the others. The columns are TRIAL
    (then options, cost.* and final_*), TARGET, TABLES (after `id`), TUNING and MISSING."""

    studies: list[dict]  # study.json, each with "folder"
    trials: pd.DataFrame
    targets: pd.DataFrame
    measurements: pd.DataFrame
    layers: pd.DataFrame
    noise_law: pd.DataFrame
    noise_scale: pd.DataFrame
    units: pd.DataFrame
    tuning: pd.DataFrame
    missing: pd.DataFrame

    @property
    def finals(self) -> pd.DataFrame:
        return self.trials[self.trials["stage"] == "final"]

    @property
    def experiments(self) -> list[str]:
        return [e["name"] for study in self.studies for e in study["experiments"]]

    def axes(self, name: str) -> list[str]:
        """The keys that vary within an experiment."""
        return [key for study in self.studies for experiment in study["experiments"]
                if experiment["name"] == name
                for axis in experiment["axes"] for key in axis["keys"]]

    def axis_of(self, name: str, key: str) -> list[str]:
        """The keys that vary together with this one within an experiment; none if it does not."""
        return next((axis["keys"] for study in self.studies for experiment in study["experiments"]
                     if experiment["name"] == name
                     for axis in experiment["axes"] if key in axis["keys"]), [])

    def experiment(self, name: str) -> Results:
        """These results, restricted to one experiment."""
        def restrict(frame: pd.DataFrame) -> pd.DataFrame:
            if "experiment" in frame:
                return frame[frame["experiment"] == name]
            ids = frame["id" if "id" in frame else "trial"].astype(str)
            return frame[ids.str.startswith(name + "/")]

        kept = {field.name: restrict(getattr(self, field.name))
                for field in dataclasses.fields(self) if field.name != "studies"}
        studies = [{**study, "experiments": [e for e in study["experiments"] if e["name"] == name]}
                   for study in self.studies]
        return Results(studies=[s for s in studies if s["experiments"]], **kept)


def load(folders: list[Path]) -> Results:
    """The results of all these study folders together. Throws ReportError."""
    rows: dict[str, list] = {name: [] for name in ("trials", "targets", "tuning", "missing")}
    tables: dict[str, list] = {name: [] for name in TABLES}
    studies: list[dict] = []
    for folder in map(Path, folders):
        study = _read_study(folder)
        _refuse_repeated(study, studies)
        studies.append(study)
        for experiment in study["experiments"]:
            for planned in experiment["cells"]:
                _read_cell(study, experiment, planned, rows, tables)
    trials = _numbers_where_possible(_frame(rows["trials"], [*TRIAL, *_final_columns()]))
    targets = _frame(rows["targets"], TARGET).astype(
        {**dict.fromkeys(REACHED, float), "reached": bool})
    return Results(
        studies=studies, trials=trials, targets=targets,
        tuning=_frame(rows["tuning"], TUNING), missing=_frame(rows["missing"], MISSING),
        **{name: _concat(tables[name], ["id", *columns]) for name, columns in TABLES.items()})


def arm_name(options: dict[str, str]) -> str:
    """The normalization of a trial as figures name it: "none", "BN M=32", "BN M=B", "LN"."""
    kind, batch = options.get("norm.kind", "none"), options.get("norm.batch", "global")
    if kind == "batch":
        return "BN M=" + {"global": "B", "local": "B/V"}.get(batch, batch)
    return {"layer": "LN"}.get(kind, kind)


def _read_study(folder: Path) -> dict:
    if not _there(folder) or not folder.is_dir():
        raise ReportError(f"'{folder}' is not a folder: name one that syncbn-study has written, "
                          "such as runs/study-smoke.", 66)
    if not _there(folder / "study.json"):
        raise ReportError(f"'{folder}' holds no study.json, so it is no study's folder: name one "
                          "that syncbn-study has written, such as runs/study-smoke.", 66)
    study = _read_json(folder / "study.json", {"format": object})
    if study["format"] != FORMAT:
        raise ReportError(f"'{folder / 'study.json'}' has format {shapes.short(str(study['format']))}, and this "
                          f"report reads format {FORMAT}: use the report of the version that wrote "
                          "it, or run the study again.")
    _check(folder / "study.json", study, shapes.STUDY)
    return {**study, "folder": str(folder)}


def _refuse_repeated(study: dict, others: list[dict]) -> None:
    """Trials are known by experiment, cell and name, which two studies may share."""
    names = {experiment["name"] for experiment in study["experiments"]}
    cells = [(experiment["name"], cell["cell"]) for experiment in study["experiments"]
             for cell in experiment["cells"]]
    if len(names) < len(study["experiments"]) or len(set(cells)) < len(cells):
        raise _damaged(Path(study["folder"]) / "study.json",
                       Unfit("it names an experiment, or a cell, twice"))
    for other in others:
        shared = names & {experiment["name"] for experiment in other["experiments"]}
        if shared:
            raise ReportError(f"Experiment '{sorted(shared)[0]}' is in both '{other['folder']}' "
                              f"and '{study['folder']}': report them apart.")


def _read_cell(study: dict, experiment: dict, planned: dict, rows: dict, tables: dict) -> None:
    where = {"study": study["name"], "experiment": experiment["name"], "cell": planned["cell"]}
    folder = Path(study["folder"]) / experiment["name"] / planned["cell"]
    cell = {"settings": {}}
    if _there(folder / "cell.json"):
        cell = _read_json(folder / "cell.json", shapes.CELL)
    tuning = None
    if _there(folder / "tuning.json"):
        tuning = _read_json(folder / "tuning.json", shapes.TUNING)
    trials = [trial for path in _trials_begun(folder)
              if (trial := _read_trial(path, where, cell, tuning, rows, tables))]
    rows["trials"].extend(trials)
    if tuning and trials:
        rows["tuning"].extend(_tuning_rows(tuning, where, trials[0]))
    found = sum(_is_planned(trial, experiment) for trial in trials)
    if found < planned["trials"]:
        needed = planned.get("ranks", 1)
        waits = needed if not trials and needed > study.get("ranks", 1) else 0
        rows["missing"].append({**where, "planned": planned["trials"], "found": found,
                                "waits": waits})


def _trials_begun(cell: Path) -> list[Path]:
    """Their metadata.json."""
    try:
        names = files.names_in(cell)
    except Unfit as unfit:
        raise _damaged(cell, unfit) from unfit
    return [path for name in names if _there(path := cell / name / "metadata.json")]


def _read_trial(path: Path, where: dict, cell: dict, tuning: dict | None, rows: dict,
                tables: dict) -> dict | None:
    """The row of a trial, or None if it has not come to its end."""
    metadata = _read_json(path, {"status": str})
    if metadata["status"] not in FINISHED:
        return None
    _check(path, metadata, shapes.TRIAL)
    trial = {
        **where, "trial": path.parent.name, "settings": cell["settings"],
        "stop": cell.get("study", {}).get("study.stop", ""),
        "id": f"{where['experiment']}/{where['cell']}/{path.parent.name}",
        "B": metadata["batch"], "M": metadata["norm_batch"], "arm": arm_name(metadata["options"]),
        "edge": (tuning or {}).get("edge", "none"),
        "fallback": (tuning or {}).get("fallback", False),
        **{key: metadata.get(key) for key in TRIAL if key in metadata},
        **ADDED_OPTIONS, **metadata["options"],
        **{f"cost.{key}": value for key, value in metadata.get("cost", {}).items()},
    }
    measured = {name: _read_table(path.parent, name) for name in TABLES}
    if metadata["status"] == "COMPLETE" and measured["measurements"] is None:
        raise _damaged(path.parent / "measurements.csv", Unfit("it is not there", 66))
    for name, table in measured.items():
        if table is not None:
            tables[name].append(table.assign(id=trial["id"]))
    if metadata["status"] == "COMPLETE":
        trial |= _final_values(measured["measurements"])
    rows["targets"].extend(_target(target, trial) for target in metadata.get("targets", []))
    return trial


def _target(target: dict, trial: dict) -> dict:
    """A diverged trial reaches no target, also if it was there before, and has no finite budget:
    more steps would not have helped it."""
    lost = trial["status"] == "DIVERGED"
    return {**target, **(dict.fromkeys(REACHED) if lost else {}), "id": trial["id"],
            **{budget: math.inf if lost else trial.get(unit) for budget, unit in BUDGETS.items()},
            "reached": not lost and target["steps"] is not None,
            **{key: trial[key] for key in OF_TARGET}}


def _final_columns() -> list[str]:
    return [f"final_{metric}" for metric in METRICS]


def _final_values(measurements: pd.DataFrame | None) -> dict:
    """The last full evaluation's values: a light one has those of val_running alone."""
    if measurements is None:
        return {}
    full = measurements[measurements["val_recomputed_accuracy"].notna()]
    return {f"final_{metric}": full[metric].iloc[-1] for metric in METRICS} if len(full) else {}


def _tuning_rows(tuning: dict, where: dict, trial: dict) -> list[dict]:
    return [{**where, "arm": trial["arm"], "B": trial["B"], "M": trial["M"], **point,
             "chosen": point["lr"] == tuning["chosen"],
             **{key: tuning.get(key) for key in ("edge", "fallback", "criterion")}}
            for point in tuning["curve"]]


def _is_planned(trial: dict, experiment: dict) -> bool:
    """Neither the chosen rate's neighbours nor tuning beyond the grid count as planned."""
    grid = (experiment.get("tune") or {}).get("lr", [])
    return trial["stage"] == "final" or (trial["stage"] == "tune" and trial["lr"] in grid)


def _read_table(folder: Path, name: str) -> pd.DataFrame | None:
    path = folder / f"{name}.csv"
    try:
        return files.read_csv(path, TABLES[name], TEXT, ADDED_COLUMNS) if _there(path) else None
    except Unfit as unfit:
        raise _damaged(path, unfit) from unfit


def _damaged(path: Path, unfit: Unfit) -> ReportError:
    if unfit.forbidden:
        return ReportError(f"'{path}' cannot be read, since {unfit}: give yourself the right to, or "
                           "report as a user who has it.", unfit.code)
    lost = path if path.name in ALONE else path.parent
    return ReportError(f"'{path}' cannot be read, since {unfit}: remove '{lost}' and run the study "
                       "again, which makes anew what is not there.", unfit.code)


def _there(path: Path) -> bool:
    """Whether anything is, be it a file or not."""
    try:
        return files.there(path)
    except Unfit as unfit:
        raise _damaged(path, unfit) from unfit


def _read_json(path: Path, shape: dict) -> dict:
    try:
        return files.read_json(path, shape)
    except Unfit as unfit:
        raise _damaged(path, unfit) from unfit


def _check(path: Path, value: object, shape: dict) -> None:
    try:
        files.check(value, shape)
    except Unfit as unfit:
        raise _damaged(path, unfit) from unfit


def _frame(rows: list[dict], columns: list[str]) -> pd.DataFrame:
    """All the columns, in this order, before any others that the rows have."""
    if not rows:
        return pd.DataFrame(columns=columns, dtype=object)
    frame = pd.DataFrame(rows)
    others = [column for column in frame if column not in columns]
    return frame.reindex(columns=[*columns, *others])


def _concat(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return pd.DataFrame(columns=columns, dtype=object)
    frame = pd.concat(filled, ignore_index=True)
    return frame.reindex(columns=[*columns, *(c for c in frame if c not in columns)])


def _numbers_where_possible(trials: pd.DataFrame) -> pd.DataFrame:
    """Options come as text; those whose every value is a number become numbers."""
    for column in trials:
        if re.fullmatch(r"[a-z]+\.[a-z0-9_]+", column) and not column.startswith("cost."):
            try:
                trials[column] = pd.to_numeric(trials[column])
            except (ValueError, TypeError):
                pass  # text it stays
    return trials
