"""syncbn-study from outside: what a study leaves, how it goes on after a kill, what it refuses."""

import collections
import csv
import json
import os
import random
import re
import shutil
import signal
import time

import pytest

from support import idx, study, trainer

BUSY = 0.85  # share of the ranks' time that goes into trials


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a study that ran undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    result = study.run(study.write(folder), folder / "out")
    assert result.code == 0, result.stderr
    return folder / "out"


def test_leaves_a_tree_of_results(whole):
    found = study.trials(whole)
    assert len(found) == study.TRIALS
    assert {metadata["status"] for metadata in found.values()} == {"COMPLETE"}
    assert (whole / "study.ini").read_text() == study.TEXT
    description = json.loads((whole / "study.json").read_text())
    assert description["title"] == "A small study" and description["ranks"] == 2
    assert [(experiment["name"], len(experiment["cells"]))
            for experiment in description["experiments"]] == [("tuned", 2), ("ranks", 4)]
    assert sum(cell["trials"] for experiment in description["experiments"]
               for cell in experiment["cells"]) == study.TRIALS
    cell = whole / "tuned/train.batch=32"
    settings = json.loads((cell / "cell.json").read_text())
    assert settings["settings"] == {"train.batch": "32"}
    assert settings["options"]["norm.batch"] == "8"
    tuning = json.loads((cell / "tuning.json").read_text())
    assert [rate["lr"] for rate in tuning["curve"]] == [0.01, 0.1]
    for seed in (1, 2):
        metadata = found[f"tuned/train.batch=32/final-seed{seed}"]
        assert metadata["versions"] == description["versions"]
        assert metadata["arithmetic"] == description["arithmetic"]
        assert metadata["lr"] == tuning["chosen"] and metadata["seed"] == seed
        assert metadata["options"]["run.seed"] == str(seed)
        assert (cell / f"final-seed{seed}" / "layers.csv").exists()
    assert not (cell / "tune-lr0.1-seed101" / "layers.csv").exists()
    assert not list(whole.rglob(".lock")) and not list(whole.rglob("*.tmp-*"))


def ledger(folder):
    with open(folder / "ledger.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_writes_a_ledger_of_all_trials(whole):
    rows = {row["trial"]: row for row in ledger(whole)}
    assert set(rows) == set(study.trials(whole))
    for name, row in rows.items():
        assert float(row["start_s"]) < float(row["end_s"])
        assert row["ranks"] == ("2" if "study.ranks=2" in name else "1")


def test_a_trial_has_the_same_result_on_any_ranks(whole):
    found = study.results(whole)
    for arm in ("norm.kind=none", "norm.kind=batch"):
        for seed in (1, 2):
            cells = [f"ranks/{arm},norm.batch=global,study.ranks={ranks}/final-seed{seed}"
                     for ranks in (1, 2)]
            assert found[cells[0]] == found[cells[1]]


def test_a_second_run_repeats_nothing(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("metadata.json")}
    result = study.run(whole.parent / "small.ini", whole, ranks=3)
    assert result.code == 0, result.stderr
    assert f"{study.TRIALS} trials, 0 of them now" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("metadata.json")} == before


def test_killed_at_random_moments_it_ends_with_the_same_results(whole, tmp_path):
    chance, config, out = random.Random(5), study.write(tmp_path), tmp_path / "out"
    kills = 0
    while (known := len(study.finished(out))) <= study.TRIALS - 8:  # or it ends before it is killed
        job = study.start(config, out, lambda: len(study.finished(out)) > known,
                          ranks=[2, 3, 2, 4][kills % 4])
        time.sleep(chance.uniform(0, 0.1))
        victim = chance.choice([*job.ranks, job.process.pid])
        os.kill(victim, signal.SIGKILL)
        code, stderr, _ = job.end()
        assert code == (-signal.SIGKILL if victim == job.process.pid else 137), stderr
        assert len(study.finished(out)) > known
        kills += 1
    assert kills >= 2
    result = study.run(config, out, ranks=3)
    assert result.code == 0, result.stderr
    assert study.results(out) == study.results(whole)


def test_sigusr1_stops_it_between_two_steps(whole, tmp_path):
    config, out = study.write(tmp_path), tmp_path / "out"
    for ranks in (2, 3):
        known = len(study.finished(out))
        job = study.start(config, out, lambda: len(study.finished(out)) > known, ranks=ranks)
        job.process.send_signal(signal.SIGUSR1)
        code, stderr, seconds = job.end()
        assert code == 75, stderr
        assert "stopped on request with trials left" in stderr and str(out) in stderr
        assert seconds < 5
    assert study.run(config, out).code == 0
    assert study.results(out) == study.results(whole)


def test_two_jobs_share_one_study(whole, tmp_path):
    config, out = study.write(tmp_path), tmp_path / "out"
    words = study.words(config, out)
    jobs = [trainer.start(*words, ranks=2, program=study.PROGRAM) for _ in range(2)]
    ran = 0
    for job in jobs:
        stderr = job.communicate(timeout=120)[1]
        assert job.returncode == 0, stderr
        ran += int(stderr.split(f"{study.TRIALS} trials, ")[1].split()[0])
    assert ran == study.TRIALS, "each trial once"
    assert study.results(out) == study.results(whole)


def test_sixty_short_trials_keep_both_ranks_busy(tmp_path):
    text = study.TEXT.split("[experiment")[0].replace("seeds = 1 .. 2", "seeds = 1 .. 15").replace(
        "limit = 500", "limit = 2000").replace("epochs = 120", "epochs = 10")
    text += "[experiment short]\ntrain.batch = 16 .. 128 by *2\nnorm.kind = none\n"
    out = tmp_path / "out"
    result = study.run(study.write(tmp_path, text), out)
    assert result.code == 0, result.stderr
    trials = [(float(row["start_s"]), float(row["end_s"])) for row in ledger(out)]
    assert len(trials) == 60
    span = max(end for _, end in trials) - min(start for start, _ in trials)
    assert sum(end - start for start, end in trials) / (2 * span) >= BUSY


SHORT = study.TEXT.split("[experiment")[0].replace("epochs = 120", "epochs = 5")


def test_the_longest_trials_come_first(tmp_path):
    text = SHORT + "[experiment a]\ntrain.batch = 64 | 16 | 128 | 32\nnorm.kind = none\n"
    out = tmp_path / "out"
    assert study.run(study.write(tmp_path, text), out, ranks=1).code == 0
    order = sorted(study.finished(out).values(), key=lambda trial: trial["started"])
    assert [trial["batch"] for trial in order] == [16, 16, 32, 32, 64, 64, 128, 128]


def test_cells_that_need_more_ranks_wait_for_them(tmp_path):
    text = SHORT + "[experiment a]\nstudy.ranks = 1 | 3\nstudy.impossible = drop\n"
    config, out = study.write(tmp_path, text), tmp_path / "out"
    few = study.run(config, out, ranks=2)
    assert few.code == 0, few.stderr
    assert "waiting: a/study.ranks=3: needs mpirun -n 3 or more" in few.stderr
    assert "the same command under mpirun -n 3 goes on" in few.stderr
    assert {trial["ranks"] for trial in study.finished(out).values()} == {1}
    cells = json.loads((out / "study.json").read_text())["experiments"][0]["cells"]
    assert [cell["trials"] for cell in cells] == [2, 2], "those that wait are planned too"
    many = study.run(config, out, ranks=3)
    assert many.code == 0 and "4 trials, 2 of them now" in many.stderr, many.stderr
    assert "waiting" not in many.stderr
    found = study.results(out)
    for seed in (1, 2):
        assert found[f"a/study.ranks=1/final-seed{seed}"] == found[f"a/study.ranks=3/final-seed{seed}"]


def test_a_damaged_trial_is_run_again(whole, tmp_path):
    """So is one that lost a table; and a lock that a killed rank left goes away."""
    config, out = study.write(tmp_path), tmp_path / "out"
    shutil.copytree(whole, out)
    metadata = out / "tuned/train.batch=16/final-seed1/metadata.json"
    metadata.write_text(metadata.read_text()[:100])
    (out / "tuned/train.batch=32/final-seed1/layers.csv").unlink()
    (out / "tuned/train.batch=32/final-seed2/measurements.csv").unlink()
    (out / "tuned/train.batch=32/tune-lr0.1-seed101/.lock").touch()
    result = study.run(config, out)
    assert result.code == 0 and f"'{metadata}' is damaged" in result.stderr
    assert "final-seed1' has lost its layers.csv and is run again" in result.stderr
    assert f"{study.TRIALS} trials, 3 of them now" in result.stderr
    assert study.results(out) == study.results(whole)
    assert not list(out.rglob(".lock"))


# ---- the plan ----

def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    text = study.TEXT + "study.impossible = drop\ntrain.batch = 64 | 500\n"
    result = study.run(study.write(tmp_path, text), tmp_path / "out", "--dry-run")
    assert result.code == 0, result.stderr
    assert not (tmp_path / "out").exists()
    lines = {line.split()[0]: line.split() for line in result.stderr.splitlines() if line.strip()}
    assert lines["tuned"][1:3] == ["2", "12"] and lines["ranks"][1:3] == ["4", "8"]
    assert result.stderr.count("dropped: ranks/") == 4
    assert "at most the 400 training samples, found 500" in result.stderr
    assert re.search(r": 20 trials in \d+:\d\d.* on 2 ranks$", result.stderr, re.M)
    assert "time on one rank" in result.stderr and re.search(r"from \d blocks? of", result.stderr)
    assert re.search(r" 6 trials, +6 left  train.batch=32$", result.stderr, re.M)
    assert re.search(r" 2 trials, +2 left  norm.kind=batch  study.ranks=2$", result.stderr, re.M)
    assert "note: " not in result.stderr


def test_dry_run_counts_what_is_left_and_checks_the_folder(whole, tmp_path):
    """It refuses what the real start refuses, and writes nothing."""
    config, out = study.write(tmp_path), tmp_path / "out"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "tuned/train.batch=32/final-seed1")
    for seed in (1, 2):
        shutil.rmtree(out / f"ranks/norm.kind=none,norm.batch=global,study.ranks=1/final-seed{seed}")
    before = sorted(out.rglob("*"))
    result = study.run(config, out, "--dry-run")
    assert result.code == 0, result.stderr
    assert "holds 17 of these trials; 3 are left" in result.stderr
    assert re.search(r": 3 trials in \d+:\d\d", result.stderr)
    assert re.search(r" 6 trials, +1 left  train.batch=32$", result.stderr, re.M)
    assert sorted(out.rglob("*")) == before

    starts = [study.run(config, out, "--study.seeds", "1 .. 5", *more)
              for more in (["--dry-run"], [])]
    for start in starts:
        assert start.code == 73, start.stderr
        assert ("it holds another study: study.seeds is '1 .. 2', expected '1 .. 5' (in 6 cells); "
                "name another with --study.out" in start.stderr)
    assert starts[0].sentence() == starts[1].sentence()
    assert sorted(out.rglob("*")) == before


def test_one_seed_is_said_to_be_one_run(tmp_path):
    text = study.TEXT.replace("seeds = 1 .. 2", "seeds = 5")
    result = study.run(study.write(tmp_path, text), tmp_path / "out", "--dry-run", ranks=2)
    assert "note: tuned: study.seeds = 5 is one run, with seed 5; 1 .. 5 are 5 runs" in result.stderr


@pytest.mark.parametrize("words", [["-h"], ["--help", "--trane.lr", 1], ["--config", "none", "-h"]])
def test_help_tells_the_grammar_and_does_nothing_else(words):
    result = trainer.run(*words, ranks=2, program=study.PROGRAM)
    assert (result.code, result.stderr) == (0, "")
    for part in ("Usage: ", "[experiment steps]", "train.batch = 32 | 128 | 512", "by *10", " & ",
                 "--tune.lr '0.1 | 0.3'", "study.seeds = 5 is one"):
        assert part in result.stdout, part
    assert result.stdout.count("Usage: ") == 1
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_each_shipped_study_has_the_plan_that_its_head_states(tmp_path):
    data = idx.write_large(tmp_path, train=60_000, test=10_000)  # as many as MNIST has
    files = sorted((trainer.ROOT / "configs/studies").glob("*.ini"))
    assert files
    for path in files:
        # A calibration step of 55,000 samples in the study's own net takes half a minute.
        small = [] if "model.hidden" in path.read_text() else ["--model.hidden", "8"]
        result = study.run(path, "unused", "--dry-run", "--study.impossible", "drop",
                           "--train.max_steps", "1", "--data.dir", data, *small, ranks=1)
        assert result.code == 0, (path, result.stderr)
        waiting = collections.Counter(re.findall(r"waiting: (\w+)/", result.stderr))
        planned = {}
        for name, cells, trials in re.findall(r"^  (\w+) +(\d+) +(\d+) +\d+ ", result.stderr, re.M):
            whole = int(cells) + waiting[name]
            planned[name] = whole, int(trials) * whole // int(cells)
        stated = re.findall(r"^#   (\w+) +(\d+) +([\d,]+) +[\d,]+$", path.read_text(), re.M)
        assert planned == {name: (int(cells), int(trials.replace(",", "")))
                           for name, cells, trials in stated}, path


# ---- what is refused ----

REFUSED = {
    "no file": (64, "", ["--study.out", "x"], ["a study needs a file", "--config"]),
    "unknown key": (78, "[experiment a]\ntrain.bach = 1 | 2\n", [],
                    ["small.ini: line 2", "train.bach", "train.batch"]),
    "axis in words": (78, "[experiment a]\ntrain.batch = 8 .. two\n", [],
                      ["small.ini: line 2", "8 .. two"]),
    "M does not tile": (78, "[experiment a]\ntrain.batch = 64 | 48\nnorm.batch = 32\n", [],
                        ["[experiment a]", "train.batch=48", "norm.batch", "divides",
                         "study.impossible = drop"]),
    "B above the data": (78, "[experiment a]\ntrain.batch = 64 | 4096\n", [],
                         ["[experiment a]", "train.batch=4096", "2000"]),
    "too few ranks": (78, "[experiment a]\nstudy.ranks = 1 | 3\n", [], ["mpirun -n 3"]),
    "flag of training": (64, "[experiment a]\n", ["--resume"], ["--resume", "goes on by itself"]),
    "a training's file": (78, "[train]\nepochs = 1\n", [], ["[experiment NAME]", "syncbn-train"]),
    "list without quotes": (64, "[experiment a]\n", ["--study.seeds", "1", "..", "3"],
                            ["'..'", "needs quotes: --study.seeds '1 .. 3'"]),
    "comma for a bar": (64, "[experiment a]\n", ["--tune.lr", "0.1,0.3"], ["'0.1 | 0.3'", "quotes"]),
    "2^65 cells": (78, "[experiment a]\n" + "".join(
        f"{key} = 1 .. 8192\n" for key in ("train.epochs", "train.max_steps", "train.warmup_steps",
                                           "train.lr_reference", "measure.population")),
                   [], ["[experiment a]", "more than 100000 cells"]),
    "too many trials": (78, "[experiment a]\ntrain.epochs = 1 .. 200\n",
                        ["--study.seeds", "1 .. 9000"], ["more than 1000000 trials"]),
    "run.out": (64, "[experiment a]\n", ["--run.out", "x"], ["run.out", "study.out"]),
}


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("name", REFUSED)
def test_refuses(tmp_path, name, ranks):
    code, text, more, says = REFUSED[name]
    if text:
        path = study.write(tmp_path, "[data]\nname = synthetic\n" * ("experiment" not in text) + text)
        more = ["--config", path, "--study.out", tmp_path / "out", "--data.name", "synthetic", *more]
    result = trainer.run(*more, ranks=ranks, program=study.PROGRAM)
    assert result.code == code, result.stderr
    sentence = result.sentence()
    assert sentence.startswith("syncbn-study: ")
    assert [part for part in says if part not in sentence] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ranks", [None, 2])
def test_refuses_the_folder_of_another_study(whole, tmp_path, ranks):
    other = study.write(tmp_path, study.TEXT.replace("epochs = 120", "epochs = 7"))
    before = study.trials(whole)
    result = study.run(other, whole, ranks=ranks)
    assert result.code == (78 if ranks is None else 73), result.stderr
    says = "mpirun -n 2" if ranks is None else "train.epochs is '120', expected '7' (in 6 cells)"
    assert says in result.stderr
    assert study.trials(whole) == before
