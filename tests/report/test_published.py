"""Numbers that others printed, and which of our trials stand beside them."""

import json

import pytest

from report import tables
from report.published import HOFFER_SETTINGS
from report.results import load
from support.study_tree import Cell, Experiment, Trial, write_study

SEEDS = (1, 2, 3)
HOFFER = {key: str(value) for key, value in HOFFER_SETTINGS.items()}


def published_rows(results):
    """The table, and our accuracies by what they are of."""
    table = tables.published_table(results)
    return table, {row[1]: row[4].split("\N{NO-BREAK SPACE}")[0] for row in table.rows}


def test_published_numbers_are_held_against_the_trials_meant(study):
    made = [Cell({"train.batch": b, "norm.batch": m}, [
        Trial(s, finals={"test_running_accuracy": accuracy, "train_running_accuracy": 0.999})
        for s in SEEDS]) for b, m, accuracy in (
            ("256", "256", 0.981), ("6000", "6000", 0.976), ("6000", "250", 0.979))]
    table, ours = published_rows(study(Experiment("keskar", made)))
    assert len(ours) == 5
    assert ours["small batch (256): test accuracy"] == "98.10"
    assert ours["large batch (6,000): test accuracy"] == "97.60"
    assert ours["large batch (6,000) with M = 256: test accuracy"] == "97.90"
    assert ours["large batch (6,000): training accuracy"] == "99.90"
    differs = {row[1]: row[-1] for row in table.rows}
    assert "M 250 (published: 256)" in differs["large batch (6,000) with M = 256: test accuracy"]
    assert "M " not in differs["large batch (6,000): test accuracy"]


SMALLER = {"data.limit": "2000", "train.epochs": "3", "train.clip": "5.0"}


@pytest.mark.parametrize("options, differs", [
    (HOFFER, "nothing known"),
    (HOFFER | SMALLER,
     "images 2000 (published: all); epochs 3 (published: 50)"),
    (HOFFER | {"data.augment": "none", "model.hidden": "64,64,64"},
     "augmentation none (published: crop-flip); network 64 × 3 (published: 512 × 5)")])
def test_a_published_row_says_in_what_ours_differs(study, options, differs):
    cell = Cell({"train.batch": "128"}, [Trial(1)])
    made = Experiment("hoffer", [cell], options=options)
    table, _ = published_rows(study(made))
    [row] = table.rows
    assert row[-1] == differs and row[5] == "hoffer"


def test_a_study_from_before_augmentation_had_none(tmp_path):
    made = Experiment("hoffer_plain", [Cell({"train.batch": "128"}, [Trial(1)])],
                      options=HOFFER)
    folder = write_study(tmp_path / "study", [made])
    [path] = folder.glob("hoffer_plain/*/*/metadata.json")
    metadata = json.loads(path.read_text())
    del metadata["options"]["data.augment"]
    path.write_text(json.dumps(metadata))
    table, _ = published_rows(load([folder]))
    assert table.rows[0][-1] == "augmentation none (published: crop-flip)"


def test_the_published_noise_scale_is_averaged_as_the_checks_do(tmp_path):
    """Over quarters of the run, not over measurements, and with every seed or none."""
    def rows(noise):
        return [{"step": step, "small_batch": 16, "big_batch": 64, "small_norm2": 2,
                 "big_norm2": 1, "gradient_norm2": gradient, "noise": noise * gradient * factor}
                for step, (gradient, factor) in enumerate([(1, 1), (9, 2)] * 4)]

    def ours(*noises):
        cell = Cell({"norm.kind": "none"}, [
            Trial(seed, tables={"noise_scale": rows(noise)})
            for seed, noise in enumerate(noises, 1)])
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        table = tables.published_table(load([write_study(
            folder, [Experiment("noise_scale", [cell])])]))
        return table.rows[0][table.columns.index("ours")]

    assert ours(100.0, 100.0).startswith("190"), "(1 + 18) / (1 + 9)"
    assert ours(100.0, -100.0) == "–"
