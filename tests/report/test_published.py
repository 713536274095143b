"""Numbers that others printed: which of our trials stand beside them, and Hoffer's ladder (S4)."""

import json

import pytest

from report import checks_published, tables
from report.published import HOFFER_SETTINGS
from report.results import load
from support.planted import cells, experiment, judged
from support.study_tree import Cell, Experiment, Trial, write_study

SEEDS = (1, 2, 3)


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


def test_groups_of_two_sizes_are_not_pooled_beside_a_published_number(study):
    made = [Cell({"norm.kind": kind, "norm.batch": m}, [
        Trial(s, finals={"test_running_accuracy": accuracy}) for s in SEEDS])
        for kind, m, accuracy in (("none", "global", 0.95), ("batch", "global", 0.97),
                                  ("batch", "30", 0.5))]
    options = {"train.batch": "60", "run.shards": "4"}
    _, ours = published_rows(study(Experiment("ioffe_tuned", made, options=options)))
    assert ours == {"test accuracy with batch norm, B = 60": "97.00",
                    "test accuracy without": "95.00"}


SMALLER = {"data.limit": "2000", "train.epochs": "3", "train.clip": "5.0"}


@pytest.mark.parametrize("options, differs", [
    (HOFFER_SETTINGS, "nothing known"),
    (HOFFER_SETTINGS | SMALLER,
     "images 2000 (published: all); epochs 3 (published: 50)"),
    (HOFFER_SETTINGS | {"data.augment": "none", "model.hidden": "64,64,64"},
     "augmentation none (published: crop-flip); network 64 × 3 (published: 512 × 5)")])
def test_a_published_row_says_in_what_ours_differs(study, options, differs):
    cell = Cell({"train.batch": "128"}, [Trial(1)])
    made = Experiment("hoffer", [cell], options=options)
    table, _ = published_rows(study(made))
    [row] = table.rows
    assert row[-1] == differs and row[5] == "hoffer"


def test_a_study_from_before_augmentation_had_none(tmp_path):
    made = Experiment("hoffer_plain", [Cell({"train.batch": "128"}, [Trial(1)])],
                      options=HOFFER_SETTINGS)
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


def hoffer(base=97.0, rule=97.9, adapted=98.3, batches=(128, 4096), **options):
    small, large = batches
    levels = {(small, small, "none", 50): 98.3, (large, large, "none", 50): base,
              (large, large, "sqrt", 50): rule, (large, small, "sqrt", 50): rule,
              (large, large, "sqrt", 1600): adapted}
    made = cells(levels, ("train.batch", "norm.batch", "train.lr_rule", "train.epochs"))
    settings = {key.replace(".", "__"): value for key, value in HOFFER_SETTINGS.items()}
    return [experiment("hoffer", made, **settings | options)]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"base": 98.1, "rule": 98.3}, "fail", "a gap of at least"),
    ({"rule": 97.1}, "fail", "25 %"), ({"adapted": 97.9}, "fail", "below the small batch"),
    ({"batches": (128, 1024)}, "undecided", "B = 128 and 1,024"),
    ({"model__hidden": "64,64"}, "undecided", "network 64,64 (published: 512 × 5)"),
    ({"data__limit": "2000"}, "undecided", "images 2000 (published: all)"),
    ({"data__augment": "none"}, "undecided", "augmentation none (published: crop-flip)")])
def test_s4(study, values, verdict, reason):
    found = judged(checks_published.s4, study, hoffer(**values), verdict, reason)
    assert ("without the published augmentation" in " ".join(found.flags)) == (
        values.get("data__augment") == "none")


def test_s4_of_fewer_epochs_is_no_published_training(study):
    [made] = hoffer()
    for cell in made.cells:
        cell.settings["train.epochs"] = {"50": "5", "1600": "20"}[cell.settings["train.epochs"]]
    judged(checks_published.s4, study, [made], "undecided",
           "epochs 5 (published: 50), epochs 20 (published: 1600)")
