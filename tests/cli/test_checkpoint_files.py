"""Checkpoint files from outside: Python's safetensors on both ends."""

import os
import pathlib
import re
import subprocess

import pytest
import safetensors
import safetensors.torch
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROBE = pathlib.Path(os.environ.get("SYNCBN_BUILD_DIR", ROOT / "build")) / "tests/checkpoint_probe"


def probe(*words):
    return subprocess.run([PROBE, *map(str, words)], text=True, capture_output=True, timeout=60)


def test_python_opens_a_checkpoint(tmp_path):
    saved = probe("save", tmp_path / "checkpoints", 2, 1234, 3)
    path = tmp_path / "checkpoints/step-000000001234.safetensors"
    assert saved.stdout.strip() == str(path), saved.stderr
    state = safetensors.torch.load_file(path)
    assert list(state) == ["0.weight", "1.num_batches_tracked"]
    assert torch.equal(state["0.weight"], torch.full((3,), 1234.0))
    assert torch.equal(state["1.num_batches_tracked"], torch.tensor(1234))
    with safetensors.safe_open(path, "pt") as file:
        texts = file.metadata()
    assert re.fullmatch("[0-9a-f]{64}", texts.pop("checkpoint.sha256"))
    assert texts == {"format": "pt", "checkpoint.format": "1", "checkpoint.step": "1234",
                     "train.batch": "64"}


def test_a_file_of_pythons_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"w": torch.arange(6.).view(2, 3), "d": torch.tensor([0.5], dtype=torch.float64),
               "n": torch.tensor(-7), "u": torch.tensor([[0, 255]], dtype=torch.uint8),
               "none": torch.empty(0, 4)}
    safetensors.torch.save_file(tensors, path, {"format": "pt", "é": "ü"})
    shown = probe("show", path)
    assert shown.returncode == 0, shown.stderr
    assert sorted(line.rstrip() for line in shown.stdout.splitlines()) == [
        "tensor d Double [1] : 0.5", "tensor n Long [] : -7", "tensor none Float [0, 4] :",
        "tensor u Byte [1, 2] : 0 255", "tensor w Float [2, 3] : 0 1 2 3 4 5",
        "text format pt", "text é ü"]


@pytest.mark.parametrize("dtype", [torch.int16, torch.bool])
def test_a_dtype_that_training_has_not_is_refused(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2, dtype=dtype)}, path)
    shown = probe("show", path)
    assert shown.returncode == 65
    assert "tensor 'w' has dtype" in shown.stderr and str(path) in shown.stderr


def test_an_ordinary_model_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "step-000000000001.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)
    found = probe("newest", tmp_path)
    assert found.returncode == 65
    assert str(path) in found.stderr and "no checkpoint" in found.stderr
