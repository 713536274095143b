"""What earlier versions wrote stays readable: runs of commit 10ac513 (tests/fixtures/10ac513) go on."""

import hashlib
import json
import shutil

import pytest
import torch

from support import trainer

FIXTURES = trainer.ROOT / "tests/fixtures/10ac513"
RESULTS = ["epoch", "step", "samples", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
           "val_error", "lr"]  # the other columns are times


def whole(kind):
    """The fixture that was not stopped; its program wrote "done", so it is read as it lies."""
    return trainer.Run(trainer.Result(0, "", "", 0), FIXTURES / f"{kind}_whole")


def digest(run):
    return hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()


def assert_same(run, expected):
    """The bits on a processor of the fixture's kind, else all but rounding."""
    if run.metadata["arithmetic"] == expected.metadata["arithmetic"]:
        assert digest(run) == digest(expected)
        for name in RESULTS:
            assert run.column(name) == expected.column(name), name
    else:
        for name in RESULTS:
            assert run.column(name) == pytest.approx(expected.column(name), rel=1e-3, abs=1e-2)
        for name, value in expected.state.items():
            assert torch.allclose(run.state[name], value, rtol=1e-2, atol=1e-3), name


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["sync", "local", "per_rank"])
def test_a_run_of_10ac513_goes_on_to_the_bits_of_one_that_was_not_stopped(tmp_path, kind, ranks):
    folder = tmp_path / "run"
    shutil.copytree(FIXTURES / f"{kind}_stopped", folder)
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    words = ["--resume", f"--run.out={folder}", "--train.max_steps=-1"]
    if kind == "per_rank" and ranks == 1:  # the batch is the same: 24 × 2 ranks
        words.append("--train.batch=48")
    run, expected = trainer.Run(trainer.run(*words, ranks=ranks), folder), whole(kind)
    assert "resumed" in run.result.stderr and "step 10" in run.result.stderr
    assert_same(run, expected)
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == header, "a file keeps its columns"
    assert {line.count(",") for line in lines} == {header.count(",")}
    assert len(run.lines) == len(run.rows) == 3
    assert json.loads((folder / "metadata.json").read_text())["status"] == "COMPLETE"
