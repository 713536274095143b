"""run.keep_best: the model of the best epoch by validation, through stops and crashes."""

from support import trainer
from support.resuming import BASE, CASES, expect_refused, expect_same, resumed

# From its fifth epoch on it takes steps that are 300 times too long.
BEST = {**BASE, **CASES["sync"], "data.validation": 0.3, "train.epochs": 6, "train.lr": 0.01,
        "train.schedule": "step", "train.milestones": 4, "train.gamma": 300, "run.keep_best": True}


def best_of(rows):
    return max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"], -row["epoch"]))


def test_the_best_model_is_kept_through_stops_and_crashes(tmp_path):
    whole = trainer.train(tmp_path / "whole", BEST, ranks=2)
    best, content = best_of(whole.rows), (whole.folder / "best.safetensors").read_bytes()
    assert 1 <= best["epoch"] < 5
    assert whole.metadata["best"] == {
        "file": "best.safetensors", "epoch": best["epoch"], "step": best["step"],
        "val_accuracy": best["val_accuracy"], "val_loss": best["val_loss"]}
    scored = trainer.train(tmp_path / "scored", {
        **BEST, "run.keep_best": False, "train.max_steps": 0, "model.weights":
        whole.folder / "best.safetensors"})
    assert [scored.rows[0][name] for name in ("val_loss", "val_accuracy")] == [
        best["val_loss"], best["val_accuracy"]]

    folder = tmp_path / "parts"
    for step, ranks in ((8, 1), (17, 3), (24, 2)):
        part = resumed(folder, {**BEST, "train.max_steps": step}, ranks)
        expected = best_of(part.rows)
        assert part.metadata["best"]["epoch"] == expected["epoch"]
        # As a crash may leave it: of a later epoch than the newest checkpoint knows.
        (folder / "best.safetensors").write_bytes(b"of later")
        (folder / "model.safetensors").unlink()
    run = resumed(folder, {**BEST, "train.max_steps": -1}, ranks=1)
    expect_same(run, whole)
    assert (folder / "best.safetensors").read_bytes() == content
    assert run.metadata["best"] == whole.metadata["best"]
    expect_refused(folder, 65, ["run.keep_best is 'true'", "all epochs or of none"],
                   {"run.keep_best": False})


def test_the_best_has_the_statistics_that_it_was_measured_with(tmp_path):
    run = trainer.train(tmp_path / "run", {**BEST, "norm.eval": "recomputed"}, ranks=2)
    best = best_of(run.rows)
    scored = trainer.train(tmp_path / "scored", {
        **BEST, "run.keep_best": False, "train.max_steps": 0, "model.weights":
        run.folder / "best.safetensors"})
    assert scored.rows[0]["val_loss"] == best["val_loss"]


def test_the_best_by_the_test_set_is_refused(tmp_path):
    result = trainer.run(*trainer.arguments({**BASE, "run.keep_best": True,
                                             "run.out": tmp_path / "run"}), ranks=2)
    assert result.code == 64
    sentence = result.sentence()
    assert "run.keep_best" in sentence and "chosen by the test set" in sentence
    assert "--data.validation 0.1" in sentence
    assert not (tmp_path / "run").exists()
