"""launch/report.sh and launch/tensorboard.sh from outside."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from support.study_tree import Cell, Experiment, Trial, write_study

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments, folder=ROOT, **environment):
    return subprocess.run(
        [ROOT / "launch" / script, *map(str, arguments)], cwd=folder, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=60,
        env={**os.environ, "SYNCBN_VENV": sys.prefix, **environment})


@pytest.fixture
def study(tmp_path):
    experiment = Experiment("one", [Cell({"train.batch": "16"}, [Trial(1)], planned=3)])
    return write_study(tmp_path / "study-small", [experiment])


@pytest.mark.parametrize("script", ["report.sh", "tensorboard.sh"])
def test_help_is_the_head_of_the_script(script):
    for option in ("--help", "-h"):
        result = run(script, option)
        assert result.returncode == 0 and f"launch/{script} FOLDER" in result.stdout
        assert "#" not in result.stdout and "set -e" not in result.stdout


def assert_refused(result, code, *words):
    assert result.returncode == code, result
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("script", ["report.sh", "tensorboard.sh"])
def test_what_is_wrong_is_one_sentence(script, tmp_path):
    assert_refused(run(script), 64, "named", "usage:")
    assert_refused(run(script, "--nothing"), 64, "unknown option", "usage:")
    assert_refused(run(script, tmp_path / "nowhere"), 66, "nowhere")
    assert_refused(run(script, tmp_path), 66, str(tmp_path))
    assert_refused(run(script, tmp_path, SYNCBN_VENV=tmp_path), 69, "launch/setup.sh")


@pytest.mark.parametrize("module", ["report", "report.tensorboard"])
def test_a_program_without_arguments_says_how_it_is_used(module):
    result = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True,
                            timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert_refused(result, 64, "usage: python -m " + module)
    unknown = subprocess.run([sys.executable, "-m", module, "--nothing", "here"], text=True,
                             capture_output=True, timeout=60,
                             env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    assert_refused(unknown, 64, "--nothing", "usage: python -m " + module)


@pytest.mark.parametrize("module", ["report", "report.tensorboard"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_a_program_is_its_usage(module, option, tmp_path):
    result = subprocess.run([sys.executable, "-m", module, option], capture_output=True, text=True,
                            timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                            cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"usage: python -m {module} ")
    assert "FOLDER" in result.stdout and list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_one_sentence(study):
    (study / "report").write_text("mine")
    assert_refused(run("report.sh", study), 73, f"'{study / 'report'}' cannot be written")


@pytest.mark.parametrize("script", ["report.sh", "tensorboard.sh"])
def test_a_damaged_trial_is_one_sentence(script, study):
    metadata = study / "one" / "train.batch=16" / "final-seed1" / "metadata.json"
    metadata.unlink()
    metadata.mkdir()
    assert_refused(run(script, study), 66, f"'{metadata}' cannot be read", "remove")


def test_a_port_must_be_a_number(tmp_path):
    for port in ("http", "65536"):
        assert_refused(run("tensorboard.sh", tmp_path, "--port", port), 64, "--port", f"'{port}'")
    assert_refused(run("tensorboard.sh", tmp_path, "--port"), 64, "--port")


def test_an_unfinished_study_gives_a_page_and_its_path(study):
    result = run("report.sh", "study-small", folder=study.parent)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    page = study.parent / result.stdout.strip()
    assert page == study / "report" / "index.html"
    assert "2 planned trials are missing" in page.read_text(encoding="utf-8")
    assert run("report.sh", study).returncode == 0, "again, over the page that is there"


def test_only_converting_prints_the_folder(study):
    result = run("tensorboard.sh", study, "--convert-only")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(study / "tensorboard")
    assert len(list((study / "tensorboard").rglob("events.out.tfevents.*"))) == 1


def test_tensorboard_is_served_on_this_machine_alone(study):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [ROOT / "launch" / "tensorboard.sh", study, "--port", str(port)], text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        env={**os.environ, "SYNCBN_VENV": sys.prefix})
    try:
        runs = answer(f"http://127.0.0.1:{port}/data/runs", server)
        assert "one/train.batch=16/final-seed1" in runs
    finally:
        server.terminate()
        server.wait(timeout=20)


def answer(url, server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            text = urllib.request.urlopen(url, timeout=10).read().decode()
        except OSError:
            text = "[]"
        if text.strip() != "[]":
            return text
        time.sleep(0.2)
    raise AssertionError("TensorBoard did not answer")
