"""The reader against small trees whose every value is known, whole, unfinished and damaged."""

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from report.results import ReportError, load
from support.study_tree import Cell, Experiment, Trial, tuning, write_study


def two_arms(name="m_sweep"):
    finals = [Trial(1, lr=0.2, steps=500, finals={"test_running_accuracy": 0.9712345678901234},
                    targets={0.03: 120, 0.02: None}),
              Trial(2, lr=0.2, status="DIVERGED", steps=40)]
    tunes = [Trial(101, "tune", lr=lr) for lr in (0.1, 0.2)]
    ghost = Cell({"norm.kind": "batch", "norm.batch": "32"}, finals + tunes,
                 tuning({0.1: 0.95, 0.2: 0.97}, 0.2, "high"))
    none = Cell({"norm.kind": "none", "norm.batch": "global"}, [Trial(1), Trial(2)])
    return Experiment(name, [ghost, none], tune_lr=[0.1, 0.2])


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study-small", [two_arms()])


def only(frame, **values):
    for column, value in values.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def test_a_trial_is_a_row(study):
    results = load([study])
    assert len(results.trials) == 6
    assert len(results.finals) == 4
    trial = only(results.finals, arm="BN M=32", seed=1)
    assert trial["id"] == "m_sweep/norm.kind=batch,norm.batch=32/final-seed1"
    assert (trial["B"], trial["M"], trial["lr"], trial["steps"]) == (128, 32, 0.2, 500)
    assert trial["final_test_running_accuracy"] == 0.9712345678901234
    assert trial["edge"] == "high" and not trial["fallback"]
    assert trial["train.momentum"] == 0.9, "an option whose values are all numbers is one"
    assert trial["norm.batch"] == "32", "an option with a text among its values is text"
    assert trial["cost.step_s"] == 4e-4
    none = only(results.finals, arm="none", seed=1)
    assert none["M"] == 0 and none["edge"] == "none"


@pytest.mark.parametrize("kind, batch, arm", [
    ("none", "global", "none"), ("batch", "global", "BN M=B"), ("batch", "4", "BN M=4"),
    ("batch", "local", "BN M=B/V"), ("layer", "global", "LN")])
def test_arms_have_the_names_of_figures(tmp_path, kind, batch, arm):
    cell = Cell({"norm.kind": kind, "norm.batch": batch}, [Trial(1)])
    results = load([write_study(tmp_path / "study", [Experiment("one", [cell])])])
    assert list(results.trials["arm"]) == [arm]


def test_a_censored_target_keeps_its_budget(study):
    targets = load([study]).targets
    reached = only(targets, error=0.03)
    assert reached["reached"] and reached["steps"] == 120 and reached["samples"] == 120 * 128
    censored = only(targets, error=0.02)
    assert not censored["reached"] and math.isnan(censored["steps"])
    assert censored["steps_budget"] == 500 and censored["seconds_budget"] == 500 * 4e-4
    assert censored["arm"] == "BN M=32" and censored["edge"] == "high"


def test_a_diverged_trial_reaches_nothing_and_no_budget_bounds_it(tmp_path):
    """Neither does what it reached before count."""
    lost = Trial(1, status="DIVERGED", steps=40, targets={0.05: 20, 0.03: None})
    folder = write_study(tmp_path / "study", [Experiment("one", [Cell({}, [lost])])])
    targets = load([folder]).targets
    assert len(targets) == 2 and not targets["reached"].any()
    assert targets[["steps", "samples", "epochs", "seconds"]].isna().all(axis=None)
    assert (targets[["steps_budget", "seconds_budget"]] == math.inf).all(axis=None)


def test_the_final_values_are_those_of_the_last_full_evaluation(tmp_path):
    full = {"val_recomputed_accuracy": 0.9, "val_running_accuracy": 0.8,
            "test_running_accuracy": 0.7}
    rows = [{**full, "step": 1, "test_running_accuracy": 0.1}, {**full, "step": 2},
            {"step": 3, "val_running_accuracy": 0.99}]
    cell = Cell({}, [Trial(1, tables={"measurements": rows})])
    trial = load([write_study(tmp_path / "study", [Experiment("one", [cell])])]).trials.iloc[0]
    assert trial["final_test_running_accuracy"] == 0.7
    assert trial["final_val_running_accuracy"] == 0.8, "beside the others, not the light one's"


def test_a_diverged_trial_has_no_final_values_though_it_measured_some(study):
    lost = only(load([study]).finals, arm="BN M=32", seed=2)
    assert lost["status"] == "DIVERGED" and math.isnan(lost["final_test_running_accuracy"])


def test_tuning_is_read_with_its_choice(study):
    curve = load([study]).tuning
    assert list(curve["lr"]) == [0.1, 0.2]
    assert list(curve["chosen"]) == [False, True]
    assert list(curve["values"]) == [[0.95, 0.95], [0.97, 0.97]]


def test_one_experiment_of_several(tmp_path):
    results = load([write_study(tmp_path / "study", [two_arms("first"), two_arms("first_again")])])
    first = results.experiment("first")
    assert len(first.trials) == 6 and len(first.measurements) == 6 and len(first.targets) == 2
    assert len(first.tuning) == 2
    assert first.experiments == ["first"]
    for field in dataclasses.fields(first):
        if field.name != "studies":
            columns = list(getattr(first, field.name))
            assert columns == list(getattr(results, field.name)), field.name
    assert results.axis_of("first", "norm.batch") == ["norm.batch"]


def test_an_unfinished_study_says_what_is_missing(tmp_path):
    experiment = two_arms()
    experiment.cells[1].planned = 5
    folder = write_study(tmp_path / "study", [experiment])
    killed = folder / "m_sweep" / experiment.cells[0].name / "final-seed1" / "metadata.json"
    killed.write_text(json.dumps({"status": "INCOMPLETE"}))
    (folder / "m_sweep" / experiment.cells[0].name / "final-seed2" / "metadata.json").unlink()
    missing = load([folder]).missing
    assert [tuple(row) for row in missing[["planned", "found"]].to_numpy()] == [(4, 2), (5, 2)]


def test_extensions_do_not_hide_a_missing_trial(tmp_path):
    experiment = two_arms()
    experiment.cells[0].trials.append(Trial(101, "tune", lr=0.4))
    experiment.cells[0].planned = 5
    missing = load([write_study(tmp_path / "study", [experiment])]).missing
    assert only(missing, planned=5)["found"] == 4


def test_neighbours_do_not_hide_a_missing_final(tmp_path):
    experiment = two_arms()
    experiment.cells[0].trials[1:2] = [Trial(1, "near", lr=0.1), Trial(2, "near", lr=0.1)]
    experiment.cells[0].planned = 4
    missing = load([write_study(tmp_path / "study", [experiment])]).missing
    assert only(missing, planned=4)["found"] == 3


def test_a_study_that_plans_no_ranks_waits_for_none(tmp_path):
    """As older ones do; a study that has enough of them waits for none either."""
    folder = write_study(tmp_path / "study", [Experiment("one", [
        Cell({"train.batch": str(b)}, [], planned=3, ranks=ranks)
        for b, ranks in ((16, 4), (32, 2))])])
    assert list(load([folder]).missing["waits"]) == [4, 0]
    study = json.loads((folder / "study.json").read_text())
    for cell in study["experiments"][0]["cells"]:
        del cell["ranks"]
    (folder / "study.json").write_text(json.dumps(study))
    assert list(load([folder]).missing["waits"]) == [0, 0]


def test_layers_of_before_some_columns_are_read(tmp_path):
    row = {"step": 1, "layer": 1, "name": "1", "type": "BatchNorm1d", "shard_noise": 0.25,
           "shard_variance_noise": 0.5, "initial_weight": 0.9, "dead": 0.125}
    folder = write_study(tmp_path / "study", [Experiment("one", [
        Cell({}, [Trial(s, tables={"layers": [row]}) for s in (1, 2)])])])
    old = folder / "one" / "all" / "final-seed1" / "layers.csv"
    table = pd.read_csv(old)
    added = ["shard_variance_noise", "initial_weight"]
    table.drop(columns=added).to_csv(old, index=False)
    layers = load([folder]).layers
    assert list(layers["dead"]) == [0.125, 0.125]
    assert layers[added].isna().to_numpy().tolist() == [[True, True], [False, False]]
    table.drop(columns="dead").to_csv(old, index=False)
    assert "it has no column 'dead'" in refusal(folder)[0]


def test_a_study_without_a_trial_has_empty_frames(tmp_path):
    folder = write_study(tmp_path / "study", [Experiment("one", [Cell({}, [], planned=3)])])
    results = load([folder])
    assert results.trials.empty and results.targets.empty and results.measurements.empty
    assert {"id", "arm", "final_val_running_loss"} <= set(results.trials)
    assert list(results.missing["planned"]) == [3]


def test_two_studies_are_one_result(tmp_path):
    first = write_study(tmp_path / "study-a", [two_arms("a")])
    second = write_study(tmp_path / "study-b", [two_arms("b")])
    results = load([first, second])
    assert results.experiments == ["a", "b"]
    assert sorted(results.trials["study"].unique()) == ["study-a", "study-b"]


def refusal(*folders):
    with pytest.raises(ReportError) as caught:
        load(list(folders))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence, caught.value.code


def test_the_same_experiment_twice_is_refused(tmp_path):
    first = write_study(tmp_path / "a", [two_arms()])
    second = write_study(tmp_path / "b", [two_arms()])
    sentence, _ = refusal(first, second)
    assert "'m_sweep' is in both" in sentence and str(first) in sentence and str(second) in sentence


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    sentence, code = refusal(tmp_path / "nowhere")
    assert "nowhere' is not a folder" in sentence and code == 66
    sentence, code = refusal(tmp_path)
    assert "holds no study.json" in sentence and code == 66


CELL = "m_sweep/norm.kind=batch,norm.batch=32"
TRIAL = f"{CELL}/final-seed1"


@pytest.mark.parametrize("file, content, found", [
    ("study.json", '{"format": 2, "name": "x", "experiments": []}', "has format 2"),
    ("study.json", '{"format": 1, "na', "study.json' cannot be read"),
    ("study.json", "[]", "it is no JSON object"),
    (f"{TRIAL}/metadata.json", "", "it is damaged"),
    (f"{TRIAL}/metadata.json", '{"status": "COMPLETE"}', "it has no 'stage'"),
    ("study.json", '{"format": 1, "name": "x", "experiments": 5}', "'experiments' is no list"),
    ("study.json", '{"format": 1, "name": "x", "experiments": [{"name": "y"}]}', "no 'axes'"),
    (f"{CELL}/cell.json", '{"settings": 5}', "'settings' is no JSON object"),
    (f"{CELL}/tuning.json", '{"chosen": 0.1, "curve": [{}]}', "'curve' has no 'lr'"),
    (f"{TRIAL}/measurements.csv", None, "it is not there"),
    (f"{TRIAL}/measurements.csv", "", "it is damaged"),
    (f"{TRIAL}/measurements.csv", "step,epoch\n1,2\n", "it has no column 'samples'"),
    (f"{TRIAL}/units.csv", "step,unit,p15,p50,p85\n1,0,a,2,3\n", "column 'p15' holds 'a'"),
    (f"{TRIAL}/units.csv", b"step,unit,p15,p50,p85\n1,0,\xff,2,3\n", "it is damaged"),
    ("m_sweep/norm.kind=batch,norm.batch=32/tuning.json", "{}", "it has no 'chosen'"),
])
def test_damage_is_one_sentence(study, file, content, found):
    if content is None:
        (study / file).unlink()
    else:
        (study / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence, code = refusal(study)
    assert found in sentence and str(study / file) in sentence
    assert code == (66 if content is None else 65)


FILES = ("study.json", f"{CELL}/cell.json", f"{CELL}/tuning.json",
         f"{TRIAL}/metadata.json", f"{TRIAL}/measurements.csv", f"{TRIAL}/units.csv")


@pytest.mark.parametrize("file", FILES)
def test_a_folder_in_the_place_of_a_file_is_one_sentence(study, file):
    (study / file).unlink(missing_ok=True)
    (study / file).mkdir()
    sentence, code = refusal(study)
    assert f"'{study / file}' cannot be read, since something else is in its place" in sentence
    assert "(a folder)" in sentence and "remove" in sentence and code == 66


@pytest.mark.parametrize("file", FILES)
def test_a_link_that_leads_nowhere_is_one_sentence(study, file):
    (study / file).unlink(missing_ok=True)
    (study / file).symlink_to(study / file)
    sentence, code = refusal(study)
    assert str(study / file) in sentence and code == 66


@pytest.mark.parametrize("call, file", [("stat", f"{TRIAL}/metadata.json"),
                                        ("lstat", f"{TRIAL}/metadata.json"), ("lstat", CELL)])
def test_what_may_not_be_read_is_one_sentence(study, monkeypatch, call, file):
    """Root may read all, so the refusal is played."""
    real = getattr(Path, call)

    def refuse(path, *arguments, **named):
        if path == study / file:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, call, refuse)
    sentence, code = refusal(study)
    assert f"'{study / file}' cannot be read, since it may not be read (Perm" in sentence
    assert "the right to" in sentence and code == 66


def test_a_cell_that_may_not_be_listed_is_one_sentence(study, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("report.files.os.listdir", refuse)
    sentence, code = refusal(study)
    assert "may not be read (Permission denied)" in sentence and code == 66


def test_a_file_nested_too_deep_is_one_sentence(study):
    (study / TRIAL / "metadata.json").write_text("[" * 200_000)
    assert "it is damaged" in refusal(study)[0]


@pytest.mark.parametrize("key, value, found", [
    ("cost", None, "'cost' is no JSON object"), ("targets", [{}], "'targets' has no 'error'"),
    ("targets", [{"error": 0.03, "steps": "many"}], "'steps' holds 'many'"),
    ("samples", "many", "'samples' holds 'many'"),
    ("options", [], "'options' is no JSON object"), ("seed", None, "'seed' holds null")])
def test_a_damaged_value_of_a_trial_is_one_sentence(study, key, value, found):
    path = study / TRIAL / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    sentence, _ = refusal(study)
    assert found in sentence and str(path) in sentence


@pytest.mark.parametrize("file, lost", [
    ("study.json", "study.json"), (f"{CELL}/cell.json", f"{CELL}/cell.json"),
    (f"{CELL}/tuning.json", f"{CELL}/tuning.json"), (f"{TRIAL}/metadata.json", TRIAL),
    (f"{TRIAL}/units.csv", TRIAL)])
def test_no_more_is_to_be_removed_than_is_damaged(study, file, lost):
    (study / file).write_text("{")
    assert f"remove '{study / lost}' and" in refusal(study)[0]
