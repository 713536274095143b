"""model.weights: a run that begins with the weights of a file, or only evaluates them."""

import hashlib
import json

import pytest
import safetensors.torch
import torch

from support import idx, trainer
from support.resuming import expect_refused, resume

BASE = {"data.name": "synthetic", "data.limit": 301, "model.hidden": "12,9", "train.batch": 48,
        "train.epochs": 2, "norm.batch": 16}
SCORES = [f"{split}_{name}" for split in ("val", "test") for name in ("loss", "accuracy", "error")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trainer.train(tmp_path_factory.mktemp("finished") / "run", BASE, ranks=2)


def evaluate(folder, path, ranks=None, **options):
    return trainer.train(folder, {**BASE, "model.weights": path, "train.max_steps": 0, **options},
                         ranks)


@pytest.mark.parametrize("ranks", [None, 3])
def test_a_model_is_only_evaluated(finished, tmp_path, ranks):
    path = finished.folder / "model.safetensors"
    run = evaluate(tmp_path / "run", path, ranks)
    [row] = run.rows
    assert [row[name] for name in SCORES] == [finished.rows[-1][name] for name in SCORES]
    assert (row["epoch"], row["step"], row["samples"]) == (0, 0, 0)
    [line] = (run.folder / "metrics.csv").read_text().splitlines()[1:]
    assert line.startswith("0,0,0,") and line.split(",")[4:6] == ["", ""], "nothing was trained"
    assert run.lines[0]["train_loss"] is None and run.lines[0]["val_loss"] == row["val_loss"]
    assert f"{row['val_loss']:.5f}" in run.result.stderr
    assert f"begins with               {path}" in run.result.stderr
    assert (run.folder / "model.safetensors").read_bytes() == path.read_bytes()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert run.metadata["weights"] == {"file": str(path), "sha256": digest}
    assert run.config["model"]["weights"] == str(path)
    assert run.metadata["status"] == "COMPLETE"


@pytest.mark.parametrize("dtype, run_dtype", [
    (torch.float64, "float32"), (torch.float32, "float64"), (torch.bfloat16, "float32"),
    (torch.float16, "float64")])
def test_a_state_dict_that_pytorch_saved(finished, tmp_path, dtype, run_dtype):
    path = tmp_path / "state.safetensors"
    state = {name: value.to(dtype) if value.is_floating_point() else value
             for name, value in finished.state.items()}
    safetensors.torch.save_file(state, path)
    run = evaluate(tmp_path / "run", path, **{"run.dtype": run_dtype})
    wanted = getattr(torch, run_dtype)
    for name, value in state.items():
        expected = value.to(wanted) if value.is_floating_point() else value
        assert run.state[name].dtype == expected.dtype, name
        assert torch.equal(run.state[name], expected), name
    if dtype == torch.float64:
        assert [run.rows[0][name] for name in SCORES] == [
            finished.rows[-1][name] for name in SCORES]


@pytest.mark.parametrize("kind", ["model", "checkpoint"])
def test_training_begins_with_them(finished, tmp_path, kind):
    """Weights, running statistics and their count; the optimizer and the steps begin anew."""
    path = finished.folder / "model.safetensors"
    if kind == "checkpoint":
        [path] = (finished.folder / "checkpoints").iterdir()
    options = {**BASE, "train.optimizer": "sgd", "train.lr": 1e-30, "norm.momentum": 1e-30}
    run = trainer.train(tmp_path / "run", {**options, "model.weights": path}, ranks=2)
    assert run.column("step") == [7, 14]
    for name, value in finished.state.items():
        expected = value + 14 if name.endswith("num_batches_tracked") else value
        assert torch.allclose(run.state[name], expected, rtol=1e-6, atol=0), name
    assert run.rows[0]["train_loss"] < finished.rows[0]["train_loss"] / 1.1


def test_they_are_read_at_the_beginning_and_not_at_a_resume(finished, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes((finished.folder / "model.safetensors").read_bytes())
    options = {**BASE, "model.weights": path}
    whole = trainer.train(tmp_path / "whole", options)
    folder = tmp_path / "parts"
    empty = tmp_path / "empty.ini"
    empty.write_text("")
    begun = trainer.run("--resume", "--config", empty, *trainer.arguments({
        **options, "train.max_steps": 5, "run.out": folder}), ranks=2)
    assert begun.code == 0, begun.stderr
    path.unlink()
    run = trainer.Run(trainer.run("--resume", f"--run.out={folder}", "--train.max_steps=-1",
                                  ranks=2), folder)
    assert (folder / "model.safetensors").read_bytes() == (
        whole.folder / "model.safetensors").read_bytes()
    assert run.metadata["weights"] == whole.metadata["weights"]
    other = trainer.run("--resume", f"--run.out={folder}", "--train.epochs=3",
                        "--model.weights=other.safetensors")
    assert other.code == 65
    assert "model.weights is" in other.sentences()[-1]
    assert "read where a run begins" in other.sentences()[-1]


def test_a_finished_evaluation_is_of_its_weights_data_and_batch(tmp_path):
    path = tmp_path / "mine.safetensors"
    data = idx.write_tiny(tmp_path)
    options = {**BASE, "data.name": "idx", "data.dir": data, "data.limit": 0, "train.batch": 32,
               "data.scale": "standard"}
    weights = trainer.train(tmp_path / "trained", options).folder / "model.safetensors"
    path.write_bytes(weights.read_bytes())
    folder = trainer.train(tmp_path / "run", {**options, "model.weights": path,
                                              "train.max_steps": 0}).folder
    same = resume(folder, {}, ranks=2)
    assert same.code == 0 and "nothing is to be done" in same.stderr
    expect_refused(folder, 65, ["global batch is '32', expected '16'"], {"train.batch": 16})
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value * 2 for name, value in state.items()}, path)
    expect_refused(folder, 65, ["weights.sha256 is", "the file of model.weights has changed"])
    path.unlink()
    images = data / idx.NAMES[0]
    images.write_bytes(images.read_bytes()[:-1] + b"\7")
    expect_refused(folder, 65, ["train-images", "mean and deviation of data.scale = standard is"])
    metadata = json.loads((folder / "metadata.json").read_text())
    for old in ("weights", "batch"):
        del metadata[old]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    expect_refused(folder, 65, ["train-images"])


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("options, parts", [
    ({"model.hidden": "12,8"}, ["3.weight is [9, 12], expected [8, 12]", "6.weight is [10, 9], "
                                "expected [10, 8]"]),
    ({"norm.kind": "none"}, ["2.weight is missing, expected [9, 12]",
                             "'3.weight', [9, 12], is not expected"]),
    ({"norm.output": True}, ["7.running_mean is missing, expected [10]",
                             "7.num_batches_tracked is missing, expected integers []"]),
])
def test_weights_of_another_model_are_refused(finished, tmp_path, options, parts, ranks):
    words = {**BASE, **options, "model.weights": finished.folder / "model.safetensors",
             "run.out": tmp_path / "run"}
    result = trainer.run(*trainer.arguments(words), ranks=ranks)
    assert result.code == 65
    sentence = result.sentences()[-1]
    for part in [str(finished.folder), *parts]:
        assert part in sentence
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be(finished, tmp_path):
    content = (finished.folder / "model.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-1])
    (tmp_path / "pickled").write_bytes(b"PK" + content)
    bad = {**finished.state, "1.num_batches_tracked": torch.tensor(-1)}
    safetensors.torch.save_file(bad, tmp_path / "bad")
    [checkpoint] = (finished.folder / "checkpoints").iterdir()
    changed = bytearray(checkpoint.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    for name, code, says in (("no", 66, "No such file"), (".", 66, "found a folder"),
                             ("cut", 65, "is damaged"), ("pickled", 65, "is damaged"),
                             ("bad", 65, "num_batches_tracked is below 0"),
                             ("changed", 65, "SHA-256")):
        for flags in ([], ["--dry-run"]):
            result = trainer.run(*trainer.arguments({
                **BASE, "model.weights": tmp_path / name, "run.out": tmp_path / "run"}), *flags)
            assert result.code == code, result.stderr
            assert says in result.sentences()[-1]
            assert str(tmp_path / name) in result.sentences()[-1]
    assert not (tmp_path / "run").exists()


def test_not_in_a_study(tmp_path):
    config = tmp_path / "study.ini"
    for line in ("[model]\nweights = a.safetensors", "[run]\nkeep_best = true"):
        config.write_text(f"[data]\nname = synthetic\n{line}\n[experiment a]\n"
                          "train.batch = 32 | 64\n")
        result = trainer.run("--config", config, "--dry-run", program=trainer.PROGRAMS /
                             "syncbn-study")
        assert result.code == 78
        assert "remove the key" in result.sentences()[-1]
