"""Runs that are stopped and go on: what their tests share."""

import hashlib
import re

from support import trainer

# 7 steps an epoch, the last of 13 samples: fewer than the 16 shards.
BASE = {"data.name": "synthetic", "data.limit": 301, "model.hidden": "12,9", "train.batch": 48,
        "train.epochs": 3, "run.shards": 16}
STEPS = 21
CASES = {
    "sync": {"norm.batch": "global", "train.optimizer": "adam", "model.dropout": 0.2},
    "local": {"norm.batch": "local", "train.drop_last": True, "train.optimizer": "sgd",
              "train.momentum": 0.9, "train.lr": 0.05},
    "ghost": {"norm.batch": 16, "train.optimizer": "adam", "norm.eval": "recomputed"},
    "momentum": {"norm.batch": "global", "norm.cumulative": True, "train.optimizer": "sgd",
                 "train.lr": 0.05, "train.schedule": "cosine", "model.dropout": 0.3},
}
RESULTS = ["epoch", "step", "samples", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
           "val_error", "lr"]  # the other columns are times


def resume(folder, options, ranks=None, **settings):
    """Goes on, or begins where there is no run yet."""
    return trainer.run(*trainer.arguments({**options, "run.out": folder}), "--resume",
                       *begins(folder), ranks=ranks, **settings)


def begins(folder):
    """The words for a folder that holds no run yet: a configuration, here without a line."""
    if (folder / "config.ini").exists():
        return []
    empty = folder.parent / "empty.ini"
    empty.write_text("")
    return ["--config", str(empty)]


def resumed(folder, options, ranks=None):
    return trainer.Run(resume(folder, options, ranks), folder)


def digest(run):
    return hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def step_of(path):
    return int(re.search(r"step-(\d+)", path.name)[1])


def expect_same(run, expected):
    """The same results as those of a run that was not stopped; no row missing, doubled or torn."""
    assert digest(run) == digest(expected)
    for name in RESULTS:
        assert run.column(name) == expected.column(name), name
        assert [line[name] for line in run.lines] == expected.column(name), name
    text = (run.folder / "metrics.csv").read_text()
    commas = text.splitlines()[0].count(",")
    assert text.endswith("\n") and {line.count(",") for line in text.splitlines()} == {commas}
    assert not list(run.folder.rglob("*.tmp-*"))
    assert run.metadata["status"] == "COMPLETE"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expect_refused(folder, code, parts, options=None, ranks=None):
    """One sentence, and no file is changed."""
    before = contents(folder)
    result = resume(folder, options or {}, ranks)
    assert result.code == code, result.stderr
    [sentence] = [line for line in result.sentences() if line.startswith("syncbn-train: ")]
    for part in parts:
        assert str(part) in sentence
    assert contents(folder) == before
