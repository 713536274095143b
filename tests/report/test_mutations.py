"""Every file that the report and TensorBoard's converter read, with something else in its place, and
every value in it another: each ends in a page, or in one sentence and the code of its kind."""

import csv
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from report import __main__ as report
from report import files, page, tensorboard
from support.study_tree import COLUMNS, Cell, Experiment, Trial, tuning, write_study

ROOT = Path(__file__).resolve().parents[2]
PAGE, TENSORBOARD = (report, "report"), (tensorboard, "tensorboard")
CELL = "m_sweep/norm.batch=32"
TRIAL = f"{CELL}/final-seed1"
JSON_FILES = ["study.json", f"{CELL}/cell.json", f"{CELL}/tuning.json", f"{TRIAL}/metadata.json"]
CSV_FILES = [f"{TRIAL}/{name}.csv" for name in COLUMNS]
VALUES = ["x", "", "-1", "1e999", "nan", "²", "\ud800", None, [], {}, [[]], {"x": 1}, True, 0, -1,
          0.5, 2, 2**53, 10**400, 1e300, float("nan"), float("inf")]
FIELDS = ["x", "", "-1", "0", "0.5", "1e300", "1e999", "inf", "nan", "True", "9" * 400, '"', "²", "\0"]


def study_of(tmp_path):
    tables = {name: [{column: "1" if column in ("name", "type") else i + 1
                      for column in columns} for i in range(3)]
              for name, columns in COLUMNS.items() if name != "measurements"}
    trials = [Trial(1, targets={0.05: 500, 0.02: None}, tables=tables), Trial(101, "tune")]
    cells = [Cell({"norm.batch": "32"}, trials, tuning({0.1: 0.95, 0.2: 0.97}, 0.1, "low")),
             Cell({"norm.batch": "128"}, [Trial(1, tables=tables)])]
    return write_study(tmp_path / "study", [Experiment("m_sweep", cells, tune_lr=[0.1, 0.2])])


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path)


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch):
    """Its 5 MB, which no test here looks at, are most of what a page takes to write."""
    monkeypatch.setattr(page.plotly.offline, "get_plotlyjs", lambda: "")


def outcome(program, folder, capsys):
    """The exit code and what was said. What is thrown fails the test."""
    module, _ = program
    before, sys.argv = sys.argv, ["program", str(folder)]
    try:
        code = module.main()
    finally:
        sys.argv = before
    said = capsys.readouterr().err
    if code != 0:
        assert said.count("\n") == 1 and str(folder) in said and len(said) < 2000, said
    return code, said


def places(value, here=()):
    """Where the values in a JSON document are; of a list its first element."""
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(
        value, list) else ()
    for key, each in inner:
        yield from places(each, (*here, key))


def changed(document, place, value):
    """A copy with another value, or without it, at that place."""
    copy = json.loads(json.dumps(document))
    if not place:
        return value
    at = copy
    for key in place[:-1]:
        at = at[key]
    if value is places:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return copy


def assert_each_ends_well(path, mutants, folder, capsys):
    """Each content in the file's place, and the file as it was at the end."""
    original = path.read_bytes()
    for name, content in mutants:
        path.write_bytes(content)
        for program in (PAGE, TENSORBOARD):
            began = time.process_time()
            try:
                code, _ = outcome(program, folder, capsys)
            except Exception as error:
                raise AssertionError(f"{program[1]}: {path.name} with {name}") from error
            # 66: what is planned has another name now, so that no trial is there to be converted.
            assert code in (0, 65) or (code == 66 and program == TENSORBOARD), (path, name)
            assert time.process_time() - began < 20, (path, name)
            if code:
                break  # both read by results.load, which has refused it
    path.write_bytes(original)


def mutants_of_json(path):
    document = json.loads(path.read_text())
    for place in places(document):
        for value in [*VALUES, places]:
            if value is places and not place:
                continue
            # Half a character is written as JSON's own escape.
            yield (f"{place}: {value!r:.40}",
                   json.dumps(changed(document, place, value)).encode())


def mutants_of_csv(path):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    for column in range(len(rows[0])):
        for field in FIELDS:
            copy = [list(row) for row in rows]
            copy[-1][column] = field
            yield (f"{rows[0][column]}: {field!r:.20}",
                   "".join(",".join(row) + "\n" for row in copy).encode())
    yield "no rows", (",".join(rows[0]) + "\n").encode()
    yield "a field more", (",".join(rows[0]) + "\n" + ",".join([*rows[1], "1"]) + "\n").encode()
    yield "a field less", (",".join(rows[0]) + "\n" + ",".join(rows[1][:-1]) + "\n").encode()


def few(mutants, seed):
    """Some, which are always the same: SYNCBN_MUTANTS of them."""
    mutants, most = list(mutants), int(os.environ.get("SYNCBN_MUTANTS", "8"))
    return random.Random(seed).sample(mutants, min(len(mutants), most))


@pytest.mark.parametrize("file", JSON_FILES)
def test_another_value_in_a_json_file(study, file, capsys):
    assert_each_ends_well(study / file, few(mutants_of_json(study / file), file), study, capsys)


@pytest.mark.parametrize("file", CSV_FILES)
def test_another_value_in_a_table(study, file, capsys):
    assert_each_ends_well(study / file, few(mutants_of_csv(study / file), file), study, capsys)


WHOLES = [b"", b"\0" * 100, b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"[]", b"null", b"1", b'"x"',
          b'{"a":' * 70 + b"1" + b"}" * 70, b"9" * 5000, b",,,\n" * 9, b"\n\n", b"a,b\n1,2,3\n"]


@pytest.mark.parametrize("file", [*JSON_FILES, *CSV_FILES])
def test_another_content_in_the_place_of_a_file(study, file, capsys):
    original = (study / file).read_bytes()
    cut = [original[:part * len(original) // 7] for part in range(1, 7)]
    assert_each_ends_well(study / file, [(repr(each[:20]), each) for each in [
        *WHOLES, *cut, original[:-1], original[:50] + bytes(20) + original[70:]]], study, capsys)


def put_pipe(path):
    os.mkfifo(path)


def put_folder(path):
    path.mkdir()


def put_link_loop(path):
    path.symlink_to(path)


def put_device(path):
    path.symlink_to("/dev/zero")


def put_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's name must be short
        made.bind(path.name)
        os.chdir(before)


@pytest.mark.parametrize("put", [put_pipe, put_folder, put_link_loop, put_device, put_socket])
@pytest.mark.parametrize("file", [*JSON_FILES, *CSV_FILES])
def test_what_is_no_file_is_refused_at_once(study, file, put, capsys):
    (study / file).unlink()
    put(study / file)
    for program in (PAGE, TENSORBOARD):
        code, said = outcome(program, study, capsys)
        assert code == 66 and str(study / file) in said and "remove" in said


@pytest.mark.parametrize("file", [*JSON_FILES, *CSV_FILES])
def test_a_file_of_no_end_is_not_read(study, file, capsys):
    os.truncate(study / file, 1 << 40)  # a hole, which takes no room
    code, said = outcome(PAGE, study, capsys)
    assert code == 65 and "larger than" in said and str(study / file) in said


def test_a_link_to_a_file_is_that_file(study, capsys):
    path = study / TRIAL / "metadata.json"
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert outcome(PAGE, study, capsys) == (0, "")


TRAINING = ("epoch,step,samples,seconds,train_loss,val_accuracy\n1,468,59904,2,0.5,0.91\n"
            "2,936,119808,4,0.4,0.92\n")


@pytest.fixture
def training(tmp_path):
    folder = tmp_path / "runs" / "sync"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(TRAINING)
    (folder / "metadata.json").write_text('{"started": "2026-11-21T12:00:00Z", "status": "RUNNING"}')
    return folder


@pytest.mark.parametrize("put", [put_pipe, put_folder, put_link_loop, put_device, put_socket])
@pytest.mark.parametrize("file", ["metrics.csv", "metadata.json"])
def test_no_file_of_a_training_is_waited_for(training, file, put, capsys):
    (training / file).unlink()
    put(training / file)
    code, said = outcome(TENSORBOARD, training.parent, capsys)
    assert code == 66 and str(training / file) in said


def test_another_value_in_a_training(training, capsys):
    for file, mutants in (("metrics.csv", mutants_of_csv), ("metadata.json", mutants_of_json)):
        path = training / file
        original = path.read_bytes()
        wholes = [(repr(each[:20]), each) for each in WHOLES]
        for name, content in [*mutants(path), *wholes]:
            path.write_bytes(content)
            try:
                assert outcome(TENSORBOARD, training.parent, capsys)[0] in (0, 65), name
            except Exception as error:
                raise AssertionError(f"{file} with {name}") from error
        path.write_bytes(original)


def test_a_program_ends_with_a_sentence_and_without_a_traceback(study):
    """The example of the report that found it, from outside."""
    path = study / TRIAL / "metadata.json"
    path.write_text(path.read_text().replace('"train.epochs": "5"', '"train.epochs": "x"'))
    result = subprocess.run([sys.executable, "-m", "report", str(study)], text=True, timeout=60,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                            capture_output=True)
    assert result.returncode == 65 and result.stdout == ""
    assert "'train.epochs' holds 'x', and must be a whole number in quotes" in result.stderr
    assert str(path) in result.stderr and result.stderr.count("\n") == 1


def test_a_folder_whose_name_is_no_unicode_has_a_page(tmp_path):
    study = study_of(tmp_path)
    odd = os.fsencode(tmp_path) + b"/odd\xff"
    os.rename(study, odd)
    result = subprocess.run([sys.executable, "-m", "report", odd], capture_output=True, timeout=60,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert result.returncode == 0, result.stderr
    assert result.stdout == odd + b"/report/index.html\n"
    os.mkdir(odd + b"/" + CELL.encode() + b"/final-\xff")
    result = subprocess.run([sys.executable, "-m", "report", odd], capture_output=True, timeout=60,
                            env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert result.returncode == 65 and b"is not UTF-8" in result.stderr


def test_the_largest_file_that_is_read_is_larger_than_any_of_a_study(study):
    assert files.MOST_BYTES > 1000 * max(path.stat().st_size for path in study.rglob("*.csv"))


@pytest.mark.parametrize("key, value", [
    ("lr", "0.1"), ("lr", True), ("lr", 0), ("batch", 0), ("batch", 12.5), ("steps", -1),
    ("seconds", float("nan")), ("samples", 10**400), ("ranks", 0), ("host", None), ("reason", []),
    ("cost", {"step_s": "1"}), ("options", {"train.epochs": "5", "train.max_steps": "1e999"}),
    ("options", {"train.epochs": 5, "train.max_steps": "-1"}), ("options", {})])
def test_a_value_that_is_no_such_number_is_named(study, key, value, capsys):
    path = study / TRIAL / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    code, said = outcome(PAGE, study, capsys)
    assert code == 65 and str(path) in said and "remove" in said
    assert "holds" in said or "no number of JSON" in said or "has no 'train.epochs'" in said
