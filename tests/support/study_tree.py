"""Writes small result trees as syncbn-study does, from plain values, for tests of the report."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

SPLITS, STATISTICS = ("train", "val", "test"), ("running", "recomputed", "batch")
METRICS = [f"{split}_{statistics}_{value}" for split in SPLITS for statistics in STATISTICS
           for value in ("loss", "accuracy")]
COLUMNS = {
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
OPTIONS = {
    "data.name": "mnist", "data.dir": "", "data.limit": "0", "data.scale": "unit",
    "data.validation": "0.0833", "data.augment": "none", "model.hidden": "128",
    "model.activation": "relu", "model.init": "torch", "model.init_std": "0.01",
    "model.dropout": "0", "norm.kind": "batch",
    "norm.batch": "global", "norm.position": "pre", "norm.output": "false", "norm.eval": "running",
    "norm.momentum": "0.1", "norm.cumulative": "false", "norm.running_variance": "unbiased",
    "norm.eps": "1e-05", "train.batch": "128", "train.batch_per_rank": "0", "train.epochs": "5",
    "train.max_steps": "-1", "train.optimizer": "sgd", "train.lr": "0.1", "train.lr_rule": "none",
    "train.lr_reference": "128", "train.warmup_steps": "0", "train.schedule": "constant",
    "train.milestones": "", "train.gamma": "0.1", "train.momentum": "0.9",
    "train.nesterov": "false", "train.beta1": "0.9", "train.beta2": "0.999",
    "train.adam_eps": "1e-08", "train.weight_decay": "0", "train.clip": "0",
    "train.drop_last": "false", "seed.init": "-1", "seed.order": "-1", "seed.noise": "-1",
    "seed.split": "-1", "seed.grouping": "-1", "run.seed": "1", "run.device": "cpu",
    "run.dtype": "float32", "run.reduce": "canonical", "run.shards": "16",
}
# Seconds of a whole trial, but for step_s.
COST = {"data_s": 1e-2, "forward_s": 0.1, "backward_s": 0.2, "norm_comm_s": 2e-2,
        "gradient_comm_s": 4e-2, "optimizer_s": 1e-2, "evaluation_s": 0.2, "probe_s": 0.0,
        "step_s": 4e-4, "peak_tensor_bytes": 5_000_000, "norm_calls": 4, "norm_bytes": 4096,
        "gradient_calls": 1, "gradient_bytes": 400_000}
TRAINING_SAMPLES = 55_000
STARTED = 1_795_262_400.0  # a trial takes a second, and those of a cell follow one another


@dataclass
class Trial:
    """Effects are the caller's: `finals` by metric (test_running_accuracy), `targets` by error (the
    step, or None for censored); `tables` gives rows of a CSV, `metadata` any field, in full."""

    seed: int
    stage: str = "final"
    lr: float = 0.1
    status: str = "COMPLETE"
    steps: int = 1000
    finals: dict[str, float] = field(default_factory=dict)
    targets: dict[float, int | None] = field(default_factory=dict)
    tables: dict[str, list[dict]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        rate = "" if self.stage == "final" else f"lr{self.lr:g}-"
        return f"{self.stage}-{rate}seed{self.seed}"


@dataclass
class Cell:
    """`settings` are the values of the axes. `tuning` is tuning.json, as `tuning()` makes it."""

    settings: dict[str, str]
    trials: list[Trial]
    tuning: dict | None = None
    planned: int | None = None  # None: as many as there are
    ranks: int = 1  # that a trial needs

    @property
    def name(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.settings.items()) or "all"


@dataclass
class Experiment:
    name: str
    cells: list[Cell]
    options: dict[str, str] = field(default_factory=dict)  # over OPTIONS, for all cells
    title: str = ""
    axes: list[dict] | None = None  # None: each key of the cells' settings is an axis
    tune_lr: list[float] = field(default_factory=list)
    dropped: list[dict] = field(default_factory=list)
    study: dict[str, str] = field(default_factory=dict)  # [study], [tune], [measure] of the cells


def tuning(medians: dict[float, float | None], chosen: float, edge: str = "none", **fields) -> dict:
    return {"key": "train.lr", "criterion": "val_accuracy", "chosen": chosen, "edge": edge,
            "fallback": False,
            "curve": [{"lr": lr, "values": [median, median], "median": median,
                       "diverged": 2 if median is None else 0} for lr, median in medians.items()],
            **fields}


def write_study(folder: Path, experiments: list[Experiment], **fields) -> Path:
    """Writes the whole tree; `fields` go over those of study.json. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.ini").write_text("# written by a test\n")
    ledger = []
    for experiment in experiments:
        for cell in experiment.cells:
            ledger += _write_cell(folder, experiment, cell)
    _write_csv(folder / "ledger.csv", ["trial", "stage", "status", "ranks", "first_rank", "host",
                                       "start_s", "end_s"], ledger)
    _write_json(folder / "study.json", {
        "format": 1, "name": folder.name, "title": "A small study", "command": "syncbn-study",
        "started": "2026-11-21T12:00:00Z", "ranks": 2, "hosts": ["node1"], "device": "cpu",
        "versions": {"syncbn": "1.0", "libtorch": "2.11.0"},
        "data": {"mnist": {"train-images-idx3-ubyte": "00" * 32}},
        "experiments": [_described(experiment) for experiment in experiments], **fields})
    return folder


def _described(experiment: Experiment) -> dict:
    keys = list(experiment.cells[0].settings) if experiment.cells else []
    axes = [{"keys": [key],
             "values": [[v] for v in dict.fromkeys(c.settings[key] for c in experiment.cells)]}
            for key in keys]
    trials = [trial for cell in experiment.cells for trial in cell.trials]
    tune_seeds = sorted({t.seed for t in trials if t.stage == "tune"})
    tune = {"lr": experiment.tune_lr, "seeds": tune_seeds, "criterion": "val_accuracy", "extend": 0}
    return {"name": experiment.name, "title": experiment.title or experiment.name,
            "seeds": sorted({t.seed for t in trials if t.stage == "final"}),
            "targets": sorted({error for t in trials for error in t.targets}),
            "axes": axes if experiment.axes is None else experiment.axes,
            "tune": tune if experiment.tune_lr else None,
            "cells": [{"cell": cell.name,
                       "trials": len(cell.trials) if cell.planned is None else cell.planned,
                       "ranks": cell.ranks}
                      for cell in experiment.cells],
            "dropped": experiment.dropped}


def _write_cell(root: Path, experiment: Experiment, cell: Cell) -> list[dict]:
    """Writes a cell's trials and returns their lines of the ledger."""
    folder = root / experiment.name / cell.name
    folder.mkdir(parents=True)
    options = OPTIONS | experiment.options | {
        key: value for key, value in cell.settings.items() if not key.startswith("study.")}
    _write_json(folder / "cell.json", {"experiment": experiment.name, "cell": cell.name,
                                       "settings": cell.settings, "options": options,
                                       "study": experiment.study})
    if cell.tuning is not None:
        _write_json(folder / "tuning.json", cell.tuning)
    for i, trial in enumerate(cell.trials):
        _write_trial(folder / trial.name, options, trial, STARTED + i)
    return [{"trial": f"{experiment.name}/{cell.name}/{trial.name}", "stage": trial.stage,
             "status": trial.status, "ranks": 1, "first_rank": 0, "host": "node1",
             "start_s": STARTED + i, "end_s": STARTED + i + 1}
            for i, trial in enumerate(cell.trials)]


def _write_trial(folder: Path, cell_options: dict[str, str], trial: Trial, started: float) -> None:
    folder.mkdir()
    options = cell_options | {"train.lr": f"{trial.lr:g}", "run.seed": str(trial.seed)}
    batch = int(options["train.batch"])
    named = {"global": batch, "local": batch // int(options["run.shards"])}
    norm_batch = named.get(options["norm.batch"]) or int(options["norm.batch"])
    step_s = (COST | trial.cost)["step_s"]

    def at(steps: int | None) -> dict:
        if steps is None:
            return {"steps": None, "samples": None, "epochs": None, "seconds": None}
        return {"steps": steps, "samples": steps * batch,
                "epochs": steps * batch / TRAINING_SAMPLES, "seconds": steps * step_s}

    _write_json(folder / "metadata.json", {
        "status": trial.status, "stage": trial.stage, "seed": trial.seed, "lr": trial.lr,
        "batch": batch, "norm_batch": norm_batch if options["norm.kind"] == "batch" else 0,
        "ranks": 1, "device": "cpu", "parameters": 101_770, **at(trial.steps),
        "reason": "the loss is not finite" if trial.status == "DIVERGED" else "",
        "stopped": "divergence" if trial.status == "DIVERGED" else "budget",
        "targets": [{"error": error, **at(steps)} for error, steps in trial.targets.items()],
        "cost": COST | trial.cost, "options": options, "started": started,
        "finished": started + 1, "host": "node1", "first_rank": 0, **trial.metadata})
    last = {"step": trial.steps, "lr": trial.lr, "met_loss": 0.1,
            **{key: value for key, value in at(trial.steps).items() if key != "steps"}}
    last["epoch"] = last.pop("epochs")
    last |= {metric: 0.97 if metric.endswith("accuracy") else 0.1 for metric in METRICS}
    for table, rows in ({"measurements": [last | trial.finals]} | trial.tables).items():
        _write_csv(folder / f"{table}.csv", COLUMNS[table], rows)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _write_csv(path: Path, columns: list[str], rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
