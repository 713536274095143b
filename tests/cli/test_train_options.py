"""Wrong options and configuration files: each ends with its code and one sentence that names the
key, what was expected and what was found; those that only look wrong are read as they are meant."""

import os

import pytest

from support import idx, trainer
from support.refusals import Case, refusal_tests

LINE, CONFIG, MISSING = 64, 78, 66


def line(words, *says):
    return Case(LINE, says, lambda folder: words.split())


def data(words, *says):
    """On a data set of 40 training samples."""
    return Case(LINE, says, lambda folder: ["--data.dir", idx.write_tiny(folder), *words.split()])


def config(text, *says, code=CONFIG):
    def words(folder):
        (folder / "my.ini").write_text(text, newline="")
        return ["--config", folder / "my.ini"]
    return Case(code, ("my.ini", *says), words)


def config_made(make, *says):
    def words(folder):
        make(folder / "my.ini")
        return ["--config", folder / "my.ini"]
    return Case(MISSING, ("my.ini", *says), words)


CASES = {
    "negative": line("--train.batch -1", "train.batch", "expected a whole number from 1", "'-1'"),
    "negative, =": line("--train.batch=-1", "train.batch", "expected", "'-1'"),
    "zero": line("--train.epochs 0", "train.epochs", "from 1", "'0'"),
    "huge": line("--train.batch 99999999999999999999", "train.batch", "expected"),
    "above the range": line("--train.batch 2000000000", "train.batch", "from 1 to", "2000000000"),
    "nan": line("--train.lr nan", "train.lr", "expected", "nan"),
    "inf": line("--norm.eps inf", "norm.eps", "expected", "inf"),
    "not a number": line("--train.lr fast", "train.lr", "expected a number", "'fast'"),
    "hexadecimal": line("--train.batch 0x40", "train.batch", "expected", "'0x40'"),
    "number and more": line("--train.batch 64k", "train.batch", "expected", "'64k'"),
    "not a word": line("--norm.batch globl", "norm.batch", "expected", "'globl'", "global"),
    "prefix": line("--train.bat 64", "--train.bat", "--train.batch"),
    "unknown": line("--train.bacth 64", "--train.bacth", "--train.batch"),
    "twice": line("--train.batch 64 --train.batch 32", "--train.batch", "twice"),
    "no value": line("--train.batch --run.seed 1", "--train.batch", "needs a value"),
    "stray word": line("mnist.ini", "mnist.ini", "--config mnist.ini"),
    "batch twice": line("--train.batch 64 --train.batch_per_rank 32", "train.batch_per_rank",
                        "train.batch"),
    "M = 1": line("--norm.batch 1", "norm.batch", "at least 2", "'1'"),
    "M does not divide B": line("--norm.batch 48", "norm.batch", "128", "48", "is 32"),
    "M above B": line("--norm.batch 256", "norm.batch", "128", "256"),
    "a rate too large": line("--train.lr 3e38 --train.lr_rule linear --train.lr_reference 1",
                             "train.lr", "linear", "128", "3e+38"),
    "a model too large": line("--model.hidden 1048576,1024", "model.hidden",
                              "at most 1073741824 weights"),
    "B above the data": data("--train.batch 64", "train.batch", "64", "40"),
    "limit above the data": data("--data.limit 64", "data.limit", "64", "40"),
    "a group of one": data("--train.batch 13", "norm.batch", "one sample", "train.drop_last"),
    "in the file": config("[train]\nlr = -1\n", "line 2", "train.lr", "above 0", "-1"),
    "unknown key": config("[train]\nbatch = 64\nepoch = 2\n", "line 3", "epoch", "epochs"),
    "unknown section": config("[trian]\nbatch = 64\n", "line 1", "trian", "train"),
    "doubled key": config("[train]\nbatch = 64\nlr = 1\nbatch = 32\n", "line 4", "train.batch",
                          "line 2"),
    "hash in a value": config("[data]\ndir = /data#1\n", "line 2", "data.dir", "#"),
    "no key": config("[train]\nbatch 64\n", "line 2", "expected", "batch 64"),
    "not a text": config("[train]\nbatch = \0\n", "byte"),
    "missing": config_made(lambda path: None, "No such file"),
    "a study's file": config("[study]\nseeds = 1\n", "line 1", "syncbn-study"),
    "a clash of both": Case(LINE, ("--train.batch does not go with", "my.ini: line 4: norm.batch",
                                   "of the 3 training samples", "one sample"),
                            lambda folder: [*config("[data]\nname = synthetic\n[norm]\nbatch = "
                                                    "global\n").words(folder), "--data.limit", "3",
                                            "--train.batch", "2"]),
    "a folder": config_made(lambda path: path.mkdir(), "found a folder"),
    "a pipe": config_made(os.mkfifo, "expected a regular file"),
}

TestRefusals = refusal_tests(CASES)


@pytest.mark.parametrize("first, second, says", [
    (["--train.lr", 0.2], [], ("train.lr = 0.2", "train.lr = 0.001")),
    (["--norm.batch", 64], ["--norm.batch", 32], ("norm.batch = 64", "norm.batch = 32")),
    (["--dry-run"], [], ("--dry-run",)),
    ([], ["--help"], ("--help",)),
    (["--config", "configs/smoke.ini"], ["--config", "configs/main.ini"],
     ("'--config configs/smoke.ini'", "'--config configs/main.ini'")),
    (["--config", "configs/smoke.ini"], ["--config", "/nonexistent.ini"], ("/nonexistent.ini",)),
    (["--config", "configs/smoke.ini"], [], ("'--config configs/smoke.ini'", "'no --config'")),
    ([], ["--config", "configs/smoke.ini"], ("'--config configs/smoke.ini'", "'no --config'")),
])
def test_ranks_that_disagree(tmp_path, first, second, says):
    result = trainer.run("--run.out", tmp_path / "out", ranks=[first, second], timeout=30)
    assert result.code == 76, result.stderr
    assert "rank 1" in result.sentence()
    assert all(part in result.sentence() for part in says), result.sentence()
    assert not (tmp_path / "out").exists()


def test_the_configuration_is_rank_0s_copy(tmp_path):
    """Hosts may hold copies of one path: the first host's counts for all."""
    for folder, batch in [("first", 8), ("second", 16)]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.ini").write_text(f"[train]\nbatch = {batch}\n")
    ranks = [["-n", "1", "--wdir", str(tmp_path / folder), trainer.PROGRAM, "--config", "own.ini",
              "--print-config"] for folder in ("first", "second")]
    result = trainer.run(*ranks[0], ":", *ranks[1], program="mpirun")
    assert result.code == 0, result.stderr
    assert "batch = 8\n" in result.stdout


@pytest.mark.parametrize("wrong", [["--train.lr", "fast"], ["--train.bacth", 1]])
def test_an_error_of_one_rank_ends_all(wrong):
    result = trainer.run(ranks=[[], wrong], timeout=30)
    assert result.code == LINE, result.stderr
    assert result.sentence().startswith("syncbn-train: [rank 1/2] ")
    assert str(wrong[0]) in result.sentence()


def test_files_that_only_look_wrong(tmp_path):
    """A byte-order mark, CRLF, both kinds of comment, spaces: read, not dropped in silence."""
    path = tmp_path / "odd.ini"
    path.write_bytes("\ufeff; a comment\r\n[train]\r\n  batch=96   # B\r\nlr\t= 5e-1\r\n"
                     "[model]\r\nhidden =\r\n".encode())
    result = trainer.run("--config", path, "--print-config", "--run.seed", 7)
    assert (result.code, result.stderr) == (0, "")
    for expected in ("\nbatch = 96\n", "\nlr = 0.5\n", "\nhidden =\n", "\nseed = 7\n"):
        assert expected in result.stdout


def test_print_config_parses_back(tmp_path):
    words = ["--train.batch", 96, "--train.lr", "0.1", "--norm.batch", "local", "--norm.eps", 1e-7,
             "--train.nesterov", "true", "--run.out", tmp_path / "a folder"]
    printed = trainer.run("--config", "configs/notebook_sgd.ini", "--print-config", *words).stdout
    (tmp_path / "printed.ini").write_text(printed)
    again = trainer.run("--config", tmp_path / "printed.ini", "--print-config", ranks=2)
    assert again.code == 0 and "batch = 96" in printed
    assert again.stdout == printed


def test_help_and_version():
    result = trainer.run("--help", ranks=2)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.count("Usage: ") == 1
    for key in ("--config FILE", "--dry-run", "--overwrite", "--train.batch", "--norm.eval"):
        assert key in result.stdout
    result = trainer.run("--version", ranks=2)
    assert (result.code, result.stderr) == (0, "")
    names = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert names[:4] == ["syncbn", "commit", "dirty", "LibTorch"]
    assert "2.11.0" in result.stdout


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path):
    result = trainer.run("--config", "configs/smoke.ini", "--dry-run", "--run.out",
                         tmp_path / "out", "--train.batch", 100, ranks=3)
    assert result.code == 0
    plan = dict(line.strip().split("  ", 1) for line in result.stderr.splitlines()
                if line.startswith("  ") and "  " in line.strip())
    assert plan["B"].split() == "samples per step 100 over all ranks".split()
    assert plan["R"].split() == "ranks 3; 31 to 38 samples each".split()
    assert "synchronized" in plan["M"]
    assert plan["steps"].strip() == "20 per epoch; 40 in all"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.nightly), 3])
@pytest.mark.parametrize("name", sorted(p.name for p in (trainer.ROOT / "configs").glob("*.ini")))
def test_shipped_configs_run(mnist_dir, tmp_path, name, ranks):
    run = trainer.train(tmp_path / "run", {"data.dir": mnist_dir, "data.limit": 2000,
                                           "train.max_steps": 3}, ranks, config=name)
    assert run.rows[-1]["step"] == 3
    assert 0 < run.rows[-1]["train_loss"] < 5
