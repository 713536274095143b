"""Numbers that others printed, and which of our trials stand beside them."""

import json

import pytest

from report import tables
from report.published import HOFFER_TRAINING
from report.results import load
from support.study_tree import Cell, Experiment, Trial, write_study

SEEDS = (1, 2, 3)
HOFFER = {key: str(value) for key, value in HOFFER_TRAINING.items()} | {"data.validation": "0.1"}
HELD_OUT = "held out 0.1 (published: not known)"


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
    (HOFFER, HELD_OUT),
    (HOFFER | SMALLER,
     f"images 2000 (published: all); epochs 3 (published: 50); {HELD_OUT}"),
    (HOFFER | {"data.scale": "unit", "train.milestones": "10,20"},
     f"{HELD_OUT}; pixels unit (published: half); milestones 10,20 (published: 10,20,30)"),
    (HOFFER | {"data.augment": "none", "model.hidden": "64,64,64"},
     "network 64 × 3 (published: 512 × 5); augmentation none (published: crop-flip); "
     f"{HELD_OUT}")])
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
    assert table.rows[0][-1] == f"augmentation none (published: crop-flip); {HELD_OUT}"


def test_the_rule_of_each_of_hoffers_arms_has_its_reference(study):
    """Which the ladder's trials have in common, and the authors' two scripts have not."""
    keys = ("train.batch", "norm.batch", "train.lr_rule", "train.epochs", "train.milestones")
    arms = [("4096", "4096", "none", "50", "10,20,30"), ("4096", "4096", "sqrt", "50", "10,20,30"),
            ("4096", "128", "sqrt", "50", "10,20,30"),
            ("4096", "4096", "sqrt", "1600", "320,640,960")]
    table, _ = published_rows(study(Experiment("hoffer", [
        Cell(dict(zip(keys, arm)), [Trial(1)]) for arm in arms],
        options=HOFFER | {"train.lr_reference": "128"})))
    reference = "reference batch of the rule 128"
    assert [row[-1] for row in table.rows] == [
        HELD_OUT, f"{HELD_OUT}; {reference} (published: 256)", HELD_OUT,
        f"{HELD_OUT}; {reference} (published: not known)"]


NOISE_SCALE = {"train.optimizer": "sgd", "train.batch": "128", "train.lr": "0.01",
               "train.epochs": "1"}
NETWORK = "network 128 (published: a small convolutional one)"


@pytest.mark.parametrize("options, differs", [
    (NOISE_SCALE, NETWORK),
    (NOISE_SCALE | {"data.name": "synthetic", "data.limit": "2000", "train.batch": "64"},
     "data synthetic (published: mnist); images 2000 (published: all); "
     f"{NETWORK}; B 64 (published: 128)"),
    (NOISE_SCALE | {"train.lr": "0.1", "train.epochs": "3"},
     f"{NETWORK}; learning rate 0.1 (published: 0.01); epochs 3 (published: 1)")])
def test_the_noise_scale_says_in_what_ours_differs(study, options, differs):
    rows = [{"step": step, "small_batch": 16, "big_batch": 64, "small_norm2": 2, "big_norm2": 1,
             "gradient_norm2": 1, "noise": 100} for step in range(8)]
    cell = Cell({"norm.kind": "none"}, [Trial(1, lr=float(options["train.lr"]),
                                              tables={"noise_scale": rows})])
    table, _ = published_rows(study(Experiment("noise_scale", [cell], options=options)))
    assert table.rows[0][-1] == differs


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
