"""Runs syncbn-study and reads the tree that it leaves."""

import csv
import json
import pathlib

from support import trainer
from support.signalled import Job

PROGRAM = str(trainer.PROGRAMS / "syncbn-study")

# 20 trials of some tenths of a second on synthetic data: tuned and not, of one rank and of two.
TEXT = """
[study]
title = A small study
seeds = 1 .. 2
[data]
name = synthetic
limit = 500
validation = 0.2
[model]
hidden = 16
[train]
optimizer = sgd
epochs = 120
[measure]
targets = 0.5 | 0.1
train_samples = 100
population = 100
layers = last
[experiment tuned]
train.batch = 16 | 32
norm.batch = 8
tune.lr = 0.01 | 0.1
tune.seeds = 101 | 102
[experiment ranks]
norm.kind & norm.batch = none & global | batch & global
study.ranks = 1 | 2
"""
TRIALS = 2 * (2 * 2 + 2) + 4 * 2


def write(folder, text=TEXT, name="small.ini"):
    path = pathlib.Path(folder) / name
    path.write_text(text)
    return path


def words(config, out, *more):
    return ["--config", config, "--study.out", out, *more]


def run(config, out, *more, ranks=2, **settings):
    return trainer.run(*words(config, out, *more), ranks=ranks, program=PROGRAM, **settings)


def start(config, out, look, ranks=2, **settings):
    """A study under way, once look() has found something."""
    return Job(ranks, lambda _: look(), {}, *map(str, words(config, out)), program=PROGRAM,
               **settings)


def trials(folder):
    """{"experiment/cell/trial": metadata} of every trial begun."""
    folder = pathlib.Path(folder)
    return {str(path.parent.relative_to(folder)): json.loads(path.read_text())
            for path in sorted(folder.glob("*/*/*/metadata.json"))}


def finished(folder):
    return {name: metadata for name, metadata in trials(folder).items()
            if metadata["status"] != "INCOMPLETE"}


def results(folder):
    """All that does not depend on where, when and how often the study was run: tables without
    their seconds, and metadata without times, by trial."""
    found = {}
    for name, metadata in finished(folder).items():
        tables = {}
        for path in sorted((pathlib.Path(folder) / name).glob("*.csv")):
            with open(path, newline="") as file:
                tables[path.name] = [{key: value for key, value in row.items() if key != "seconds"}
                                     for row in csv.DictReader(file)]
        kept = {key: metadata[key] for key in ("status", "stage", "seed", "lr", "batch",
                                               "norm_batch", "steps", "samples", "stopped", "final")}
        kept["targets"] = [{key: target[key] for key in ("error", "steps", "samples")}
                           for target in metadata["targets"]]
        found[name] = kept, tables
    for path in pathlib.Path(folder).glob("*/*/tuning.json"):
        found[str(path.relative_to(folder))] = json.loads(path.read_text())
    return found
