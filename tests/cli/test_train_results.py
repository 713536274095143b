"""What a run leaves in its folder, and what it leaves alone."""

import contextlib
import os
import pty
import re
import subprocess
import time

import pytest
import safetensors.torch
import torch

from support import trainer

COLUMNS = """epoch step samples seconds train_loss train_accuracy val_loss val_accuracy val_error lr
    samples_per_s data_s forward_s backward_s norm_comm_s gradient_comm_s optimizer_s
    peak_memory_bytes test_loss test_accuracy test_error""".split()
FILES = ["checkpoints", "config.ini", "metadata.json", "metrics.csv", "metrics.jsonl",
         "model.safetensors"]
SMOKE = {"data.name": "synthetic", "model.hidden": "16", "data.limit": 500, "train.batch": 64,
         "train.epochs": 3}
CANNOT_CREATE = 73


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer.train(tmp_path_factory.mktemp("results") / "a" / "run", SMOKE, ranks=2)


def test_all_files_and_no_others(finished):
    assert names(finished.folder) == FILES


def test_metrics_have_a_row_per_epoch(finished):
    lines = (finished.folder / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",") == COLUMNS
    assert len(lines) == 1 + SMOKE["train.epochs"]
    assert finished.column("epoch") == [1, 2, 3]
    assert finished.column("step") == [8, 16, 24]
    assert finished.column("samples") == [500, 1000, 1500]
    for row in finished.rows:
        assert row["val_error"] == pytest.approx(1 - row["val_accuracy"], abs=1e-12)
        assert float(row["val_accuracy"] * 500).is_integer()
        assert row["lr"] == 1e-3
        parts = [row[name] for name in COLUMNS if name.endswith("_s") and name != "samples_per_s"]
        assert len(parts) == 6 and all(part >= 0 for part in parts)
        assert sum(parts) <= row["seconds"] + 1e-3
        assert row["peak_memory_bytes"] > 1 << 20
    assert finished.column("seconds") == sorted(finished.column("seconds"))
    assert finished.rows[-1]["train_loss"] < finished.rows[0]["train_loss"]


def test_a_device_that_ranks_share_is_named_once(finished):
    told = [line for line in finished.result.stderr.splitlines() if ": cpu" in line]
    assert len(told) == 1 and ": cpu (2 ranks), float32" in told[0]


def test_json_lines_equal_the_csv(finished):
    assert len(finished.lines) == len(finished.rows)
    for line, row in zip(finished.lines, finished.rows):
        memory = line.pop("rank_peak_memory_bytes")
        assert len(memory) == 2 and max(memory) == row["peak_memory_bytes"]
        assert list(line) == COLUMNS
        assert line == row


def test_metadata_says_what_made_it(finished):
    metadata = finished.metadata
    assert metadata["status"] == "COMPLETE"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["time"])
    assert "--data.name=synthetic" in metadata["command"]
    expected = {"batch": 64, "norm_batch": "global", "ranks": 2, "backend": "mpi", "seed": 1,
                "dtype": "float32", "threads_per_rank": 1, "steps_done": 24}
    assert {key: metadata[key] for key in expected} == expected
    assert len(metadata["rank_devices"]) == 2
    assert metadata["data"] | {"sha256": {}} == {
        "name": "synthetic", "dir": "", "train": 500, "validation": 500, "test": 500,
        "measured_on": "test", "inputs": 784, "classes": 10, "sha256": {}}
    assert "weights" not in metadata and "best" not in metadata
    assert metadata["versions"]["LibTorch"] == torch.__version__.split("+")[0]
    assert metadata["environment"]["OMP_NUM_THREADS"] == "1"


def test_config_repeats_the_run(finished, tmp_path):
    again = trainer.run("--config", finished.folder / "config.ini", "--run.out", tmp_path / "again",
                        ranks=2)
    assert again.code == 0, again.stderr
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert trainer.Run(again, tmp_path / "again").column(name) == finished.column(name)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        finished.folder / "model.safetensors").read_bytes()


def test_without_mpirun(finished, tmp_path):
    alone = trainer.train(tmp_path / "run", SMOKE)
    assert alone.metadata["ranks"] == 1
    assert alone.column("train_loss") == pytest.approx(finished.column("train_loss"), rel=1e-3)


def test_progress_is_plain_lines_without_a_terminal(finished):
    stderr = finished.result.stderr
    assert "\r" not in stderr and "\033" not in stderr
    table = stderr[stderr.index("train loss"):].splitlines()[1:]
    assert [line.split()[0] for line in table] == ["1", "2", "3", "done"]
    assert finished.result.stdout == ""


def test_what_is_measured_on_the_test_set_is_called_so(finished):
    for name in ("loss", "accuracy", "error"):
        assert finished.column(f"test_{name}") == finished.column(f"val_{name}")
    stderr = finished.result.stderr
    assert "500 training and 500 test samples" in stderr
    assert re.search(r"train loss  accuracy   test loss  accuracy ", stderr)
    assert "val" not in stderr[:stderr.index("done")].replace("values", "")


@pytest.mark.parametrize("ranks", [None, 2])
def test_with_a_fraction_the_test_set_is_looked_at_once(finished, tmp_path, ranks):
    options = {**SMOKE, "data.validation": 0.2}
    run = trainer.train(tmp_path / "run", options, ranks=ranks)
    stderr, last = run.result.stderr, run.rows[-1]
    assert "400 training, 100 validation and 500 test samples" in stderr
    assert re.search(r"train loss  accuracy    val loss  accuracy ", stderr)
    lines = (run.folder / "metrics.csv").read_text().splitlines()
    assert [line.endswith(",,,") for line in lines[1:]] == [True, True, False]
    assert [line["test_loss"] is None for line in run.lines] == [True, True, False]
    assert last["test_error"] == pytest.approx(1 - last["test_accuracy"], abs=1e-12)
    [line] = [line for line in stderr.splitlines() if line.startswith("test ")]
    assert re.fullmatch(r"test     loss \d\.\d{5}, accuracy \d+\.\d\d% of 500 samples, after "
                        rf"step {last['step']:.0f}", line)
    assert f"{last['test_loss']:.5f}" in line and f"{100 * last['test_accuracy']:.2f}%" in line
    assert run.metadata["data"]["measured_on"] == "validation"
    # The same weights on the test set, by another way.
    again = trainer.train(tmp_path / "again", {**SMOKE, "train.max_steps": 0, "model.weights":
                                               run.folder / "model.safetensors"}, ranks=ranks)
    for name in ("loss", "accuracy", "error"):
        assert again.rows[0][f"val_{name}"] == last[f"test_{name}"]


def test_no_steps_write_the_initial_weights(tmp_path):
    runs = [trainer.train(tmp_path / str(ranks), {**SMOKE, "train.max_steps": 0}, ranks)
            for ranks in (1, 3)]
    no_checkpoint = [name for name in FILES if name != "checkpoints"]
    assert [names(run.folder) for run in runs] == [no_checkpoint, no_checkpoint]
    assert all(run.rows == [] and run.metadata["status"] == "COMPLETE" for run in runs)
    states = [run.state for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["1.num_batches_tracked"] == 0
    assert torch.equal(states[0]["1.weight"], torch.ones(16))
    assert 0 < states[0]["0.weight"].abs().max() <= 784**-0.5


def test_a_folder_that_holds_a_run(finished, tmp_path):
    """Refused; with --overwrite only the run's own files go."""
    before = contents(finished.folder)
    words = trainer.arguments({**SMOKE, "run.out": finished.folder, "run.seed": 2})
    result = trainer.run(*words, ranks=2)
    assert result.code == CANNOT_CREATE
    last = result.sentences()[-1]
    assert str(finished.folder) in last and "not empty" in last and "--overwrite" in last
    assert contents(finished.folder) == before

    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    for name, content in {**before, "notes.txt": b"mine"}.items():
        (out / name).write_bytes(content)
    words = trainer.arguments({**SMOKE, "run.out": out, "run.seed": 2})
    result = trainer.run(*words, "--overwrite")
    assert result.code == 0, result.stderr
    assert names(out) == sorted([*FILES, "notes.txt"])
    assert (out / "notes.txt").read_bytes() == b"mine"
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert len(trainer.Run(result, out).rows) == 3


@pytest.mark.parametrize("make, says", [
    (lambda path: path.write_text("a file"), "is not a folder"),
    (lambda path: path.parent.write_text("a file"), "ot a directory"),
])
def test_a_folder_that_cannot_be(tmp_path, make, says):
    out = tmp_path / "parent" / "run"
    if says == "is not a folder":
        out.parent.mkdir()
    make(out)
    result = trainer.run(*trainer.arguments({**SMOKE, "run.out": out}), ranks=2)
    assert result.code == CANNOT_CREATE
    last = result.sentences()[-1]
    assert str(out) in last and "--run.out" in last
    assert not result.stderr.count("done")


def test_a_folder_that_another_job_holds(tmp_path):
    words = trainer.arguments({**SMOKE, "train.epochs": 100000, "run.out": tmp_path / "run"})
    first = trainer.start(*words, ranks=1)
    try:
        wait_for(tmp_path / "run" / "metrics.jsonl", first)
        second = trainer.run(*words, "--overwrite", ranks=2)
        assert second.code == CANNOT_CREATE
        assert "another running job holds it" in second.sentences()[-1]
        assert first.poll() is None
        rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
        assert rows[0].split(",") == COLUMNS and rows[1].startswith("1,8,500,")
    finally:
        first.terminate()
        first.communicate(timeout=30)
    # SIGTERM leaves it a second to stop in order.
    metadata = (tmp_path / "run" / "metadata.json").read_text()
    assert metadata.count('"STOPPED"') + metadata.count('"RUNNING"') == 1

    # The dead job's lock holds nobody back.
    after = trainer.run(*trainer.arguments({**SMOKE, "run.out": tmp_path / "run"}), "--overwrite")
    assert after.code == 0, after.stderr
    assert names(tmp_path / "run") == FILES


def wait_for(path, process):
    """Until the file has content."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_default_folder_is_named_after_the_config(tmp_path):
    config = (trainer.ROOT / "configs" / "smoke.ini").resolve()
    result = trainer.run("--config", config, "--train.max_steps", 1, ranks=2, cwd=tmp_path)
    assert result.code == 0, result.stderr
    [folder] = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"smoke-\d{8}-\d{6}", folder.name)
    assert names(folder) == FILES
    assert safetensors.torch.load_file(folder / "model.safetensors")


def test_a_terminal_gets_a_progress_line_and_a_pipe_does_not(tmp_path):
    slow = {"data.name": "synthetic", "train.batch": 16, "train.epochs": 40}
    terminal, ours = pty.openpty()
    words = trainer.arguments({**slow, "run.out": tmp_path / "terminal"})
    process = trainer.start(*words, ranks=2, stdout=subprocess.PIPE, stderr=ours)
    os.close(ours)
    drawn = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(terminal, 4096):
            drawn += part
    process.communicate(timeout=30)
    os.close(terminal)
    assert process.returncode == 0
    assert re.search(rb"\r\x1b\[Kstep \d+/\d+  \d+ samples/s  \d+:\d\d left", drawn), drawn
    piped = trainer.train(tmp_path / "pipe", slow, ranks=2).result
    assert "\r" not in piped.stdout + piped.stderr
