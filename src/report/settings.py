"""What the trials of a study ran with: settings, budgets, versions, machines."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import pandas as pd

from report.results import Results
from report.tables import Table, number, rates, title_of

CHOSEN_BY = {"val_accuracy": "validation accuracy", "val_loss": "validation loss",
            "steps_to_target": "steps to the first target"}
STOPS = {"none": "at the end of the budget", "target": "when all targets are reached",
         "plateau": "after 10 epochs without a lower training loss"}
PAUSE = 60.0  # seconds without a trial, after which the next is of another job
CLOCKS = 0.1  # seconds by which clocks of hosts may differ


@dataclass(frozen=True)
class Settings:
    """All settings of the trials of an experiment: what all share, and a table of the rest."""

    title: str
    common: list[tuple[str, str]]
    trials: Table


def settings(results: Results) -> list[Settings]:
    parts = []
    for name in results.experiments:
        trials = results.trials[results.trials["experiment"] == name]
        if trials.empty:
            continue
        options = [c for c in trials if "." in c and not c.startswith("cost.")]
        options = [c for c in options if trials[c].notna().any()]
        vary = [c for c in options if trials[c].astype(str).nunique() > 1
                and c not in ("train.lr", "run.seed", "run.out")]
        common = [(c, str(trials[c].iloc[0])) for c in options
                  if trials[c].astype(str).nunique() == 1]
        rows = [[row["trial"], *(str(row[c]) for c in vary), rates(trials.loc[[index]]),
                 str(row["status"]) + (f": {row['reason']}" if row["reason"] else ""),
                 number(row["steps"], ",.0f"), number(row["seconds"], ",.1f"), str(row["stopped"]),
                 f"{row['ranks']} on {row['host']}"] for index, row in trials.iterrows()]
        columns = ["trial", *vary, "learning rate", "status", "steps", "seconds", "stopped by",
                   "ranks"]
        parts.append(Settings(title_of(results, name), common, Table(
            f"{len(rows)} trials", columns, rows)))
    return parts


def budgets(results: Results) -> Table | None:
    """What each experiment's rates are chosen by, how long its trials may take, and when they
    stop."""
    criteria = {experiment["name"]: (experiment.get("tune") or {}).get("criterion")
                for study in results.studies for experiment in study["experiments"]}
    rows = []
    for name, trials in results.trials.groupby("experiment", sort=False):
        criterion = criteria[name]
        rows.append([title_of(results, name),
                     CHOSEN_BY.get(criterion, str(criterion)) if criterion else "not tuned",
                     _budget(trials), _listed(STOPS.get(stop, stop) for stop in trials["stop"])])
    return Table("What rates are chosen by, and budgets", [
        "experiment", "learning rates chosen by", "budget of a trial", "a trial stops"], rows,
        ) if rows else None


def _budget(trials: pd.DataFrame) -> str:
    """Of all trials; in steps where they are what is given."""
    limits = trials[["train.epochs", "train.max_steps"]].astype(int).drop_duplicates()
    return _listed(f"{epochs:,} epochs" + (f", at most {steps:,} steps" if steps >= 0 else "")
                   for epochs, steps in limits.itertuples(index=False))


def _listed(texts) -> str:
    return "; ".join(dict.fromkeys(texts)) or "not known"


def busy(results: Results, study: dict) -> str:
    """The share of rank time that trials took while any ran, by what each says of itself: a study
    that was killed has no ledger. Of several jobs only those can be told that ran as many ranks as
    the first, one after another."""
    trials = results.trials[results.trials["study"] == study["name"]]
    trials = trials[["ranks", "first_rank", "started", "finished"]].dropna().astype(float)
    if trials.empty:
        return "not known: no trial says when it ran"
    trials = trials.sort_values("started")
    end = trials["first_rank"] + trials["ranks"]
    if _at_once(trials):
        return "not known: two jobs ran at once"
    until = trials["finished"].cummax()  # the end of all trials so far
    before = until.shift(fill_value=trials["started"].iloc[0])
    most = end.groupby((trials["started"] > before + PAUSE).cumsum()).max()
    ranks = study.get("ranks", 1)
    if end.max() > ranks or (most.iloc[1:] < ranks).any():
        return f"not known: not all jobs had the {ranks} ranks of the first"
    used = (trials["ranks"] * (trials["finished"] - trials["started"])).sum()
    # What each adds to the time in which any ran.
    span = (until - trials["started"].where(trials["started"] > before, before)).sum()
    return f"{used / (span * ranks):.0%} of the time in which any trial ran"


def _at_once(trials: pd.DataFrame) -> bool:
    """Whether one rank had two trials at one time. Of two that meet, one begins at such a rank."""
    for rank in trials["first_rank"].unique():
        own = trials[(trials["first_rank"] <= rank)
                     & (rank < trials["first_rank"] + trials["ranks"])]
        if (own["started"] < own["finished"].cummax().shift() - CLOCKS).any():
            return True
    return False


def trial_versions(results: Results, study: dict) -> Table | None:
    """A column for each set of versions and arithmetic that trials of a study ran with."""
    trials = results.trials[results.trials["study"] == study["name"]]
    described = [_flat(row.versions) | _flat(row.arithmetic, "arithmetic")
                 for row in trials.itertuples()]
    if not any(described):
        return None
    sets = pd.Series([json.dumps(each, sort_keys=True) for each in described]).value_counts()
    each = [json.loads(text) for text in sets.index]
    keys = dict.fromkeys(key for one in described for key in one)
    rows = [[key, *(one.get(key, "not recorded") for one in each)] for key in keys]
    return Table("Versions and arithmetic, as each trial recorded them",
                 ["", *(f"{count:,} trial{'s' if count > 1 else ''}" for count in sets)], rows)


def _flat(recorded: object, name: str = "") -> dict[str, str]:
    """Of an object or a text in a trial's metadata; empty where it is absent."""
    if isinstance(recorded, str):
        return {name: recorded}
    return {f"{name}: {key}" if name else key: value if isinstance(value, str) else
            json.dumps(value) for key, value in recorded.items()} if isinstance(
                recorded, dict) else {}


def differing(table: Table | None) -> list[str]:
    """What trials of one study differ in, of `trial_versions`."""
    return [row[0] for row in table.rows if len(set(row[1:])) > 1] if table else []


def versions(results: Results, study: dict) -> list[tuple[str, str]]:
    """What a study ran with: versions, data, machines."""
    data = [(f"data {name}: {file}", f"sha256 {digest}" if digest else "")
            for name, files in study.get("data", {}).items() for file, digest in files.items()]
    plain = [(key, value if isinstance(value, str) else json.dumps(value))
             for key, value in study.get("versions", {}).items()]
    folder = os.fsencode(study["folder"]).decode(errors="replace")
    return [("study", study["name"]), ("folder", folder),
            ("command", str(study.get("command", ""))),
            ("started", str(study.get("started", ""))), ("device", str(study.get("device", ""))),
            ("arithmetic", str(study.get("arithmetic", ""))),
            ("ranks", str(study.get("ranks", ""))), ("ranks busy", busy(results, study)),
            ("hosts", hosts(study)), *plain, *data]


def hosts(study: dict) -> str:
    """Each once: the file names the host of each rank."""
    return ", ".join(dict.fromkeys(study.get("hosts", [])))
