"""Event files are read back by TensorBoard's own reader."""

import json
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from report.results import ReportError
from report.tensorboard import convert, main, studies_within
from support import trainer
from support.resuming import BASE, resumed
from support.study_tree import Cell, Experiment, Trial, write_study


def scalars(folder, tag):
    """[(step, wall time, value)] of a run."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.wall_time, event.value) for event in events.Scalars(tag)]


def tags(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()["scalars"])


@pytest.fixture
def study(tmp_path):
    rows = [{"step": 100, "epoch": 0.5, "samples": 12_800, "seconds": 1.5, "lr": 0.1,
             "met_loss": 0.7, "val_running_loss": 0.5, "val_running_accuracy": 0.9},
            {"step": 200, "epoch": 1, "samples": 25_600, "seconds": 3.0, "lr": 0.1,
             "met_loss": 0.4, "val_running_loss": 0.25, "val_running_accuracy": 0.95,
             "test_batch_accuracy": 0.94}]
    cell = Cell({"norm.batch": "32"}, [Trial(1, tables={"measurements": rows}), Trial(2)])
    return write_study(tmp_path / "study", [Experiment("one", [cell])])


def test_each_trial_is_a_run_with_the_values_of_its_file(study):
    folder, runs = convert(study)
    assert folder == study / "tensorboard" and runs == 2
    run = folder / "one" / "norm.batch=32" / "final-seed1"
    started = 1795262400.0  # 2026-11-21T12:00:00Z
    assert scalars(run, "loss/val_running") == [(100, started + 1.5, 0.5), (200, started + 3, 0.25)]
    assert [value for _, _, value in scalars(run, "accuracy/val_running")] == pytest.approx(
        [0.9, 0.95], rel=1e-6)
    assert [value for _, _, value in scalars(run, "loss/train_as_met")] == pytest.approx([0.7, 0.4])
    assert [step for step, _, _ in scalars(run, "accuracy/test_batch")] == [200], "measured once"
    assert "epoch" not in tags(run) and "lr" in tags(run)


def test_it_is_written_anew_each_time(study):
    convert(study)
    folder, runs = convert(study)
    assert runs == 2
    assert len(list((folder / "one" / "norm.batch=32" / "final-seed1").iterdir())) == 1


@pytest.mark.parametrize("path", ["notes.txt", "one/norm.batch=32/final-seed1/notes.txt"])
def test_what_is_not_its_own_is_not_deleted(study, path):
    convert(study)
    (study / "tensorboard" / path).write_text("mine")
    with pytest.raises(ReportError, match="notes.txt' is no event file") as caught:
        convert(study)
    assert caught.value.code == 73
    assert (study / "tensorboard" / path).read_text() == "mine"


def test_a_file_in_the_place_of_its_folder_is_one_sentence(study):
    (study / "tensorboard").write_text("mine")
    with pytest.raises(ReportError, match="tensorboard' is no event file"):
        convert(study)


METRICS = "epoch,step,samples,seconds,train_loss,val_accuracy\n1,468,59904,2,0.5,0.91\n"


def test_trainings_below_a_folder_are_runs(tmp_path):
    for name in ("sync", "deep/none"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text(METRICS)
    (tmp_path / "sync" / "metadata.json").write_text(
        json.dumps({"started": "2026-11-21T12:00:00Z"}))
    folder, runs = convert(tmp_path)
    assert runs == 2
    assert scalars(folder / "sync", "loss/train") == [(468, 1795262402.0, 0.5)]
    [(step, _, value)] = scalars(folder / "deep" / "none", "accuracy/val")
    assert step == 468 and value == pytest.approx(0.91)
    assert convert(tmp_path)[1] == 2, "its own folder is not converted"


def test_one_training_is_a_run(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    folder, runs = convert(tmp_path)
    assert runs == 1 and tags(folder) == {"loss/train", "accuracy/val"}


def test_a_run_of_the_trainer_has_the_times_of_its_first_start(tmp_path):
    options, folder = {**BASE, "train.batch": 32}, tmp_path / "run"
    before = int(time.time())  # a start is told in whole seconds
    first = trainer.train(folder, {**options, "train.max_steps": 10})
    started = first.metadata["started"]
    time.sleep(1.1)
    run = resumed(folder, {**options, "train.max_steps": -1})
    assert run.metadata["started"] == started < run.metadata["time"]
    times = [wall for _, wall, _ in scalars(convert(folder)[0], "loss/train")]
    assert len(times) == len(run.rows) == 3
    assert before <= times[0] - run.rows[0]["seconds"] <= time.time()
    assert times[-1] - times[0] == pytest.approx(
        run.rows[-1]["seconds"] - run.rows[0]["seconds"], abs=1e-3)
    time.sleep(1.1)
    again = trainer.Run(trainer.run("--overwrite", *trainer.arguments(
        {**options, "run.out": folder, "train.max_steps": 10})), folder)
    assert again.metadata["started"] > started, "a run of its own"


@pytest.mark.parametrize("content, found, code", [
    (None, "holds neither a study", 66), ("", "cannot be read", 65),
    ("epoch,loss\n1,2\n", "has no column 'step'", 65)])
def test_what_cannot_be_converted_is_one_sentence(tmp_path, content, found, code):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(ReportError) as caught:
        convert(tmp_path)
    assert found in str(caught.value) and caught.value.code == code
    assert not (tmp_path / "tensorboard").exists()


def test_a_training_without_metadata_is_a_run_without_a_date(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "metadata.json").write_text("{}")
    folder, _ = convert(tmp_path)
    assert scalars(folder, "loss/train") == [(468, 2.0, 0.5)]


def test_metadata_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    (tmp_path / "metadata.json").mkdir()
    with pytest.raises(ReportError, match="cannot be read, since .*a folder") as caught:
        convert(tmp_path)
    assert caught.value.code == 66
    (tmp_path / "metadata.json").rmdir()
    (tmp_path / "metadata.json").write_text("[]")
    with pytest.raises(ReportError, match="metadata.json' .*it is no JSON object") as caught:
        convert(tmp_path)
    assert caught.value.code == 65


def test_a_training_under_way_gives_the_rows_that_are_whole(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS + "2,936,1198")
    folder, _ = convert(tmp_path)
    assert [step for step, _, _ in scalars(folder, "loss/train")] == [468]


def test_studies_among_trainings_are_named(tmp_path, study, capsys, monkeypatch):
    """tmp_path holds the study's folder."""
    (tmp_path / "sync").mkdir()
    (tmp_path / "sync" / "metrics.csv").write_text(METRICS)
    assert studies_within(tmp_path) == ["study"] and studies_within(study) == []
    monkeypatch.setattr("sys.argv", ["tensorboard", str(tmp_path)])
    assert main() == 0
    told = capsys.readouterr().err
    assert told.startswith("1 run as event files\n")
    assert "left out 'study', which holds a study: name" in told


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ReportError, match="nowhere' is not a folder") as caught:
        convert(tmp_path / "nowhere")
    assert caught.value.code == 66
