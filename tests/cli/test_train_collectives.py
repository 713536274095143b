"""run.check: whether the ranks' collectives are compared changes no bit of a run, and may change when
it goes on."""

import pytest

from support import trainer

BASE = {"data.name": "synthetic", "data.limit": 200, "model.hidden": "8,6", "train.batch": 40,
        "train.epochs": 2}
DISAGREE = 76


def model(run):
    return (run.folder / "model.safetensors").read_bytes()


def test_full_gives_the_bits_of_light(tmp_path):
    light = trainer.train(tmp_path / "light", BASE, ranks=2)
    full = trainer.train(tmp_path / "full", {**BASE, "run.check": "full"}, ranks=3)
    assert light.config["run"]["check"] == "light"
    assert full.config["run"]["check"] == "full"
    assert model(light) == model(full)


def test_it_may_change_when_a_run_goes_on(tmp_path):
    whole = trainer.train(tmp_path / "whole", {**BASE, "run.check": "full"}, ranks=2)
    half = {**BASE, "train.max_steps": 3, "run.out": tmp_path / "run"}
    assert trainer.run(*trainer.arguments(half), ranks=2).code == 0
    rest = {**half, "train.max_steps": -1, "run.check": "full"}
    result = trainer.run(*trainer.arguments(rest), "--resume", ranks=2)
    assert model(trainer.Run(result, tmp_path / "run")) == model(whole)


@pytest.mark.parametrize("first, second", [("light", "full"), ("full", "light")])
def test_ranks_agree_about_it_before_they_rely_on_it(tmp_path, first, second):
    words = [[*trainer.arguments({**BASE, "run.check": check, "run.out": tmp_path / "run"})]
             for check in (first, second)]
    result = trainer.run(ranks=words, timeout=60)
    assert result.code == DISAGREE, result.stderr
    assert f"rank 0 has 'run.check = {first}', rank 1 has 'run.check = {second}'" in result.sentence()
