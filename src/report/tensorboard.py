"""`python -m report.tensorboard FOLDER`: writes the curves of a study or of trainings as event
files, below FOLDER/tensorboard, one run per trial, and prints that folder. Studies within a folder of
trainings are left out, and named."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from report import files
from report.command_line import Parser
from report.files import ReportError, Unfit, print_any_name, unwritable
from report.results import load

OWN = "tensorboard"  # the folder that this program writes, and empties of event files first
# Columns that say where on a curve a row is.
POSITION = ("id", "step", "epoch", "samples", "seconds")
# Of a training's metadata.json, what is read here.
TRAINING = {"started?": str}
# Tags that a column's name would not tell.
TAGS = {"met_loss": "loss/train_as_met"}


def convert(folder: Path) -> tuple[Path, int]:
    """Returns the folder of the event files and how many runs it holds. Throws ReportError."""
    if not folder.is_dir():
        raise ReportError(f"'{folder}' is not a folder: name one that syncbn-study or syncbn-train "
                          "has written.", 66)
    out, runs = folder / OWN, 0
    runs_of = _trials(folder) if _holds(folder, "study.json") else _trainings(folder)
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


def studies_within(folder: Path) -> list[str]:
    """The folders of studies below a folder that is none itself; their curves are left out."""
    if _holds(folder, "study.json"):
        return []
    return [path.parent.relative_to(folder).as_posix() for path in _below(folder, "study.json")]


def _below(folder: Path, name: str) -> list[Path]:
    """Whatever has this name in the folder or below it, be it a file or not; links to folders are
    not followed."""
    return sorted(Path(at) / name for at, folders, others in os.walk(folder)
                  if name in folders or name in others)


def _holds(folder: Path, name: str) -> bool:
    try:
        return files.there(folder / name)
    except Unfit as unfit:
        raise _unfit(folder / name, unfit) from unfit


def _unfit(path: Path, unfit: Unfit) -> ReportError:
    return ReportError(f"'{path}' cannot be read, since {unfit}: remove '{path.parent}', or name "
                       "another folder.", unfit.code)


def _trainings(folder: Path) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """The folder's own training, or all those below it."""
    for path in _below(folder, "metrics.csv"):
        if OWN in path.relative_to(folder).parts:
            continue
        try:
            rows = files.read_csv(path, ["step"], growing=True)
            if "seconds" in rows:
                rows = files.read_csv(path, ["step", "seconds"], growing=True)
        except Unfit as unfit:
            raise _unfit(path, unfit) from unfit
        metadata = path.parent / "metadata.json"
        try:
            held = files.read_json(metadata, TRAINING) if _holds(path.parent, metadata.name) else {}
        except Unfit as unfit:
            raise _unfit(metadata, unfit) from unfit
        yield (path.parent.relative_to(folder).as_posix(), rows, _unix_time(held.get("started")))


def _write_run(folder: Path, rows: pd.DataFrame, started: float) -> None:
    """One scalar per column and row; what was not measured is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = EventFileWriter(str(folder))
    columns = [c for c in rows if c not in POSITION and pd.api.types.is_numeric_dtype(rows[c])]
    if "seconds" in rows:
        rows = rows.fillna({"seconds": 0.0})
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
    if column in TAGS:
        return TAGS[column]
    return f"{last}/{before}" if last in ("loss", "accuracy", "error") and before else column


def _unix_time(started: object) -> float:
    """Studies write seconds, trainings a date; without either, times count from 0."""
    if isinstance(started, (int, float)):
        return float(started)
    try:
        return datetime.datetime.fromisoformat(str(started)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def main() -> int:
    parser = Parser("report.tensorboard", "Writes the curves of a study, or of trainings, as event "
                    "files of TensorBoard below FOLDER/tensorboard, and prints that folder.")
    parser.add_argument("folder", metavar="FOLDER", type=Path,
                        help="a study, a training, or a folder of trainings")
    folder = parser.parse_args().folder
    print_any_name()
    try:
        out, runs = convert(folder)
        left_out = studies_within(folder)
    except ReportError as error:
        print(f"tensorboard: {error}", file=sys.stderr)
        return error.code
    print(f"{runs} run{'s' * (runs > 1)} as event files", file=sys.stderr)
    if left_out:
        names = ", ".join(f"'{name}'" for name in left_out)
        print(f"tensorboard: left out {names}, which hold{'s' * (len(left_out) == 1)} a study: name "
              "a study's own folder to see its curves.", file=sys.stderr)
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
