"""Reads files that others wrote: a regular file of a bounded size, and JSON or CSV of a known form.
Whatever is there instead is refused by one exception, at once: nothing waits for a pipe."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from report import shapes

MOST_BYTES = 64 << 20  # of one file; the largest that a study writes have a few
DEEPEST = 64  # levels of lists and objects within one another in a JSON file
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
         stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
# Columns that count, and those of them that say what a row is of: every row has a number there.
COUNTS = ("step", "epoch", "samples", "seconds", "layer", "unit", "draws")
KEYS = ("step", "layer", "unit")


class ReportError(Exception):
    """One sentence for the user: which folder or file, what is wrong, what to do. `code` is the
    program's exit code: 65 for damaged data, 66 for data that are not there or that cannot be read,
    73 for output that cannot be written."""

    def __init__(self, sentence: str, code: int = 65):
        super().__init__(sentence)
        self.code = code


class Unfit(Exception):
    """Why a file is not what it should be, in words that follow "since". `code` as ReportError's;
    `forbidden`: the right to read it is missing, and nothing else."""

    def __init__(self, why: str, code: int = 65, forbidden: bool = False):
        super().__init__(why)
        self.code = code
        self.forbidden = forbidden


def unwritable(path: Path, error: OSError) -> ReportError:
    return ReportError(f"'{path}' cannot be written ({error.strerror}: '{error.filename}'): it "
                       "must be a folder, or free for one, on a disk with room that you may "
                       "write to.", 73)


def unreadable(error: OSError) -> Unfit:
    """Of what is there: something else in its place, or without the right to read it."""
    if isinstance(error, PermissionError):
        return Unfit(f"it may not be read ({error.strerror})", 66, forbidden=True)
    return Unfit(f"something else is in its place ({error.strerror})", 66)


def there(path: Path) -> bool:
    """Whether anything is, be it a file or not. Throws Unfit if that may not be known."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(error) from error
    return True


def names_in(folder: Path) -> list[str]:
    """What a folder holds, in order; nothing if it is not there. Throws Unfit."""
    try:
        names = sorted(os.listdir(folder)) if there(folder) else []
    except OSError as error:
        raise unreadable(error) from error
    for name in names:
        if shapes.lone_surrogate(name):
            raise Unfit(f"the name {os.fsencode(name)!r} in it is not UTF-8")
    return names


def read_bytes(path: Path) -> bytes:
    """All of a regular file. Throws Unfit."""
    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    try:
        # What is not a regular file is not even opened, since that may act on a device.
        if not stat.S_ISREG(mode := path.stat().st_mode):
            raise Unfit("something else is in its place "
                        f"({KINDS.get(stat.S_IFMT(mode), 'no file')})", 66)
        with open(path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
                return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise unreadable(error) from error
    raise Unfit(f"it is larger than {MOST_BYTES >> 20} MiB, which no study writes")


def read_json(path: Path, shape: dict) -> dict:
    """The object in a JSON file, of this shape. Throws Unfit."""
    content = read_bytes(path)
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"it is damaged ({_one_line(error)})") from error
    if wrong := shapes.unfit_text(value, DEEPEST) or shapes.misfit(value, shape):
        raise Unfit(wrong)
    return value


def check(value: object, shape: dict) -> None:
    """Throws Unfit if a value that was read is not of this shape."""
    if wrong := shapes.misfit(value, shape):
        raise Unfit(wrong)


def read_csv(path: Path, columns: Sequence[str], texts: Sequence[str] = (),
             added: Sequence[str] = (), growing: bool = False) -> pd.DataFrame:
    """The rows of a CSV file that has these columns: numbers, or empty, but for `texts`. Those
    that were `added` may be missing. Of a file that is still `growing` the last line counts when
    it is whole. Throws Unfit."""
    content = read_bytes(path)
    whole = content[:content.rfind(b"\n") + 1]
    if growing:
        content = whole
    if b"\0" in content:
        raise Unfit("it is damaged (it holds bytes that are no text)")
    try:
        frame = pd.read_csv(io.BytesIO(content), dtype=dict.fromkeys(texts, str), encoding="utf-8")
    except (ValueError, OverflowError) as error:
        raise Unfit(f"it is damaged ({_one_line(error)})") from error
    for column in columns:
        if column not in frame and column not in added:
            raise Unfit(f"it has no column '{column}'")
    if not isinstance(frame.index, pd.RangeIndex):
        raise Unfit("it is damaged (its rows have more values than it has columns)")
    if content != whole:
        raise Unfit("it is damaged (its last line has no end)")
    for column in frame:
        if column in columns and column not in texts:
            numbers = _numbers(values := frame[column])
            if numbers is not values:
                frame[column] = numbers
    return frame


def _numbers(values: pd.Series) -> pd.Series:
    """Throws Unfit where one is none, of COUNTS below 0 or without end, or of KEYS absent."""
    numbers = values
    if values.dtype == bool or not pd.api.types.is_numeric_dtype(values):
        texts = values.astype(str).where(values.notna())
        numbers = pd.to_numeric(texts, errors="coerce").astype(float)
        bad = texts[numbers.isna() & texts.notna()]
        if len(bad):
            raise Unfit(f"column '{values.name}' holds '{shapes.short(bad.iloc[0])}', which is no "
                        "number")
    if values.name in COUNTS:
        counts = numbers.to_numpy()
        fits = (counts >= 0) & (counts <= shapes.LARGEST_COUNT)
        if values.name not in KEYS:
            fits |= np.isnan(counts)
        if not fits.all():
            bad = numbers[~fits]
            raise Unfit(f"column '{values.name}' holds {bad.iloc[0]} in row {bad.index[0] + 1}, "
                        f"and must be from 0 to {shapes.LARGEST_COUNT}")
    return numbers


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _one_line(error: Exception) -> str:
    return shapes.short(" ".join(str(error).split()), 200)


def print_any_name() -> None:
    """Lets file names that are not UTF-8 be printed as they are."""
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
