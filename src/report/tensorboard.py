"""`python -m report.tensorboard FOLDER`: writes the curves of a study or of trainings as event
files, below FOLDER/tensorboard, one run per trial, and prints that folder."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from report.results import ReportError, load, unwritable

OWN = "tensorboard"  # the folder that this program writes, and empties of event files first
# Columns that say where on a curve a row is.
POSITION = ("id", "step", "epoch", "samples", "seconds")


def convert(folder: Path) -> tuple[Path, int]:
    """Returns the folder of the event files and how many runs it holds. Throws ReportError."""
    if not folder.is_dir():
        raise ReportError(f"'{folder}' is not a folder: name one that syncbn-study or syncbn-train "
                          "has written.", 66)
    out, runs = folder / OWN, 0
    runs_of = _trials(folder) if (folder / "study.json").is_file() else _trainings(folder)
    for name, rows, started in runs_of:
        try:
            if runs == 0:
                _clear(out)
            _write_run(out / name, rows, started)
        except OSError as error:
            raise unwritable(out, error) from error
        runs += 1
    if runs == 0:
        raise ReportError(f"'{folder}' holds neither a study with a finished trial nor a "
                          "metrics.csv: wait for the first result, or name another folder.", 66)
    return out, runs


def _clear(out: Path) -> None:
    """Removes the event files of an earlier call. Throws ReportError if there is more."""
    if not out.exists() and not out.is_symlink():
        return
    other = [path for path in (out, *out.rglob("*")) if path.is_symlink() or not (
        path.is_dir() or path.name.startswith("events.out.tfevents."))]
    if other:
        raise ReportError(f"'{other[0]}' is no event file, and '{out}' is emptied of earlier ones: "
                          "move what is yours elsewhere.", 73)
    shutil.rmtree(out)


def _trials(folder: Path) -> Iterator[tuple[str, pd.DataFrame, float]]:
    results = load([folder])
    for trial in results.trials.itertuples():
        rows = results.measurements[results.measurements["id"] == trial.id]
        yield trial.id, rows, _unix_time(trial.started)


def _trainings(folder: Path) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """The folder's own training, or all those below it."""
    for path in sorted(folder.rglob("metrics.csv")):
        if OWN in path.relative_to(folder).parts:
            continue
        try:
            rows = pd.read_csv(path)
            metadata = path.parent / "metadata.json"
            held = json.loads(metadata.read_text()) if metadata.exists() else {}
        except (OSError, ValueError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise ReportError(f"'{path.parent}' cannot be read, since {why}: remove that folder, "
                              "or name another.") from error
        started = held.get("started", "") if isinstance(held, dict) else ""
        if "step" not in rows:
            raise ReportError(f"'{path}' has no column 'step': it is no training's metrics.csv; "
                              "remove it, or name another folder.")
        yield path.parent.relative_to(folder).as_posix(), rows, _unix_time(started)


def _write_run(folder: Path, rows: pd.DataFrame, started: float) -> None:
    """One scalar per column and row; what was not measured is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder))
    columns = [c for c in rows if c not in POSITION and pd.api.types.is_numeric_dtype(rows[c])]
    for row in rows.to_dict("records"):
        values = [Summary.Value(tag=_tag(column), simple_value=row[column])
                  for column in columns if pd.notna(row[column])]
        event = Event(wall_time=started + float(row.get("seconds", 0.0)), step=int(row["step"]),
                      summary=Summary(value=values))
        writer.add_event(event)
    writer.close()


def _tag(column: str) -> str:
    """val_running_loss becomes loss/val_running, so that one group holds all losses."""
    before, _, last = column.rpartition("_")
    return f"{last}/{before}" if last in ("loss", "accuracy", "error") and before else column


def _unix_time(started: object) -> float:
    """Studies write seconds, trainings a date; without either, times count from 0."""
    if isinstance(started, (int, float)):
        return float(started)
    try:
        return datetime.datetime.fromisoformat(str(started)).timestamp()
    except ValueError:
        return 0.0


def main() -> int:
    if len(sys.argv) != 2:
        print("tensorboard: one folder must be named; usage: python -m report.tensorboard FOLDER",
              file=sys.stderr)
        return 64
    try:
        out, runs = convert(Path(sys.argv[1]))
    except ReportError as error:
        print(f"tensorboard: {error}", file=sys.stderr)
        return error.code
    print(f"{runs} runs as event files", file=sys.stderr)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
