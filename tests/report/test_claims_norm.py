"""Each claim on what batch norm does is supported by data with its effect, refuted by data with the
opposite, and undecided where the data cannot tell."""

import math

import pytest

from report import claims, claims_norm
from support.planted import TUNED, accuracies, cells, experiment, factor
from support.study_tree import Cell, Trial, tuning

SEEDS = range(1, 6)
NORM = ("norm.kind",)


def test_all_claims_without_data_are_undecided_with_a_reason(study):
    verdicts = claims.all_claims(study(experiment("other", cells({("none",): 97}, NORM))))
    assert [v.id for v in verdicts] == ["C1a", "C1b", "C2", "C3", "C4", "C5", "C6", "C7a", "C7b",
                                        "C8", "C9", "C10", "C11", "T"]
    for verdict in verdicts:
        assert verdict.verdict == "undecided" and verdict.reason, verdict
        assert verdict.low is None and verdict.n == 0 and verdict.claim and verdict.figure


# --- 1


def convergence(plain, norm, tuned=TUNED):
    def cell(kind, arm, steps):
        trials = [Trial(seed, targets={0.05: steps and round(steps * factor(seed, arm))})
                  for seed in SEEDS]
        return Cell({"norm.kind": kind}, trials, tuned)
    return experiment("convergence", [cell("none", 0, plain), cell("batch", 1, norm)])


@pytest.mark.parametrize("plain, norm, verdict", [
    (1000, 500, "supported"), (500, 1000, "refuted"), (1000, 1000, "undecided"),
    (None, 500, "supported"), (None, None, "undecided"), (500, None, "refuted")])
def test_fewer_steps(study, plain, norm, verdict):
    found = claims_norm.steps(study(convergence(plain, norm)))
    assert found.verdict == verdict, found
    assert bool(found.reason) == (verdict != "supported")
    if verdict == "supported":
        assert 1 < found.low < 2.1 and found.n == 5
    if plain is None and norm is None:
        assert "5 and 5 of 5 trials" in found.reason and found.n == 0
        return
    assert (found.high == math.inf) == (plain is None)
    assert (found.low == 0) == (norm is None)
    assert ("at least: 5 of 5" in found.effect) == (plain is None)
    assert ("at most: 5 of 5" in found.effect) == (norm is None)


@pytest.mark.parametrize("plain, norm, verdict", [
    (None, 500, "supported"), (500, None, "refuted"), (None, None, "undecided")])
def test_seconds_of_an_arm_that_never_gets_there_are_bounded_by_what_it_spent(
        study, plain, norm, verdict):
    made = convergence(plain, norm)
    for trial in made.cells[1].trials:  # batch norm is work on top
        trial.cost["step_s"] = 4.4e-4
    found = claims_norm.seconds(study(made))
    assert found.verdict == verdict, found
    if verdict == "supported":
        assert 1.5 < found.low < 1.82 and found.high == math.inf, "1,000 steps for 500 of 1.1"
    if verdict == "refuted":
        assert found.low == 0 and 0.45 < found.high < 0.6


@pytest.mark.parametrize("step_s, verdict", [(5e-4, "supported"), (3e-4, "undecided")])
def test_seconds_decide_if_batch_norm_is_work_on_top(study, step_s, verdict):
    made = convergence(1000, 500)
    for trial in made.cells[1].trials:
        trial.cost["step_s"] = step_s
    found = claims_norm.seconds(study(made))
    assert found.verdict == verdict
    assert ("other work" in found.reason) == (verdict == "undecided")


def test_an_edge_optimum_is_flagged(study):
    at_edge = tuning({0.1: 0.97, 0.2: 0.98}, chosen=0.1, edge="low")
    assert "low edge" in claims_norm.steps(study(convergence(1000, 500, at_edge))).flags[0]


# --- 2


def lr_tolerance(edges):
    """edges: of each arm, the lowest rate that diverges."""
    made = []
    for layers in ("128,128", "128,128,128,128,128"):
        for kind, edge in edges.items():
            for lr in (0.01, 0.1, 1, 10, 100):
                trials = [Trial(s, lr=lr, status="DIVERGED" if lr >= edge else "COMPLETE",
                                finals=accuracies(95, s, 1)) for s in range(1, 7)]
                made.append(Cell({"norm.kind": kind, "model.hidden": layers, "train.lr": f"{lr:g}"},
                                 trials))
    return experiment("lr_tolerance", made)


@pytest.mark.parametrize("edges, verdict", [
    ({"none": 1, "batch": 100}, "supported"), ({"none": 1, "batch": 1000}, "supported"),
    ({"none": 100, "batch": 0.1}, "refuted"), ({"none": 1, "batch": 1}, "undecided"),
    ({"none": 1, "batch": 10}, "undecided"),  # the grid is too coarse to tell
    ({"none": 1000, "batch": 1000}, "undecided"), ({"none": 1}, "undecided")])
def test_higher_learning_rates(study, edges, verdict):
    found = claims_norm.learning_rates(study(lr_tolerance(edges)))
    assert found.verdict == verdict, found


# --- 3


def init_scale():
    return experiment("init_scale", cells({
        ("none", 0.01): 20, ("none", 1): 97, ("batch", 0.01): 96, ("batch", 1): 97},
        ("norm.kind", "model.init_std")))


@pytest.mark.parametrize("plain, norm, verdict", [
    ((20, 97), (96, 97), "supported"), ((96, 97), (20, 97), "refuted"),
    ((96, 97), (96, 97), "undecided")])
def test_initial_weights(study, plain, norm, verdict):
    levels = {(kind, std): values[i] for kind, values in (("none", plain), ("batch", norm))
              for i, std in enumerate((0.01, 1))}
    made = cells(levels, ("norm.kind", "model.init_std"))
    assert claims_norm.initial_weights(study(experiment("init_scale", made))).verdict == verdict


def test_initial_weights_are_those_of_relu_where_sigmoid_is_there_too(study):
    made = init_scale()
    for cell in made.cells:
        cell.settings["model.activation"] = "relu"
    for cell in init_scale().cells:
        cell.settings["model.activation"] = "sigmoid"
        made.cells.append(cell)
    assert claims_norm.initial_weights(study(made)).verdict == "supported"


def test_a_scale_that_diverges_is_no_narrow_range(study):
    made = cells({("none", 0.01): 20, ("none", 1): 97, ("batch", 0.01): 97, ("batch", 1): 97},
                 ("norm.kind", "model.init_std"))
    made[0].trials = [Trial(seed, status="DIVERGED", finals={"test_running_accuracy": ""})
                      for seed in SEEDS]
    found = claims_norm.initial_weights(study(experiment("init_scale", made)))
    assert found.verdict == "undecided"
    assert "5 of 5 trials diverged" in found.flags[0]


# --- 4


def dropout(plain_gain, norm_gain, plain_train=99.9, norm_train=99.0):
    gains = {"none": plain_gain, "batch": norm_gain}
    train = {"none": plain_train, "batch": norm_train}
    made = cells({(kind, p): 97 + gains[kind] * (p > 0) for kind in gains for p in (0, 0.3)},
                 ("norm.kind", "model.dropout"))
    for arm, cell in enumerate(made):
        for trial in cell.trials:
            level = train[cell.settings["norm.kind"]]
            trial.finals |= accuracies(97, trial.seed, arm + 1, train_running=level) | trial.finals
    return experiment("dropout", made)


@pytest.mark.parametrize("values, verdict", [
    ((0.8, 0.1), "supported"), ((0.1, 0.8), "refuted"), ((0.3, 0.3), "undecided"),
    ((0.8, 0.1, 99.0, 99.9), "refuted")])
def test_dropout(study, values, verdict):
    assert claims_norm.dropout(study(dropout(*values))).verdict == verdict


def test_dropout_gains_the_mean_over_its_rates(study):
    """0.8 and −0.4 without batch norm: 0.2 on the mean, as with it."""
    made = dropout(0.8, 0.2)
    more = dropout(-0.4, 0.2)
    for cell in more.cells[1::2]:
        cell.settings["model.dropout"] = "0.5"
    made.cells += more.cells[1::2]
    assert claims_norm.dropout(study(made)).verdict == "undecided"


# --- 9


def deep(he, torch):
    shallow, layers = "128,128", ",".join(["128"] * 8)
    levels = {}
    for init, gain in (("he", he), ("torch", torch)):
        levels |= {("none", init, layers): 90, ("batch", init, layers): 90 + gain,
                   ("none", init, shallow): 97, ("batch", init, shallow): 97}
    return experiment("depth", cells(levels, ("norm.kind", "model.init", "model.hidden")))


@pytest.mark.parametrize("gains, verdict", [
    ((5, 50), "supported"), ((-5, -1), "refuted"), ((-5, 50), "undecided"), ((0, 0), "undecided"),
    ((0.05, 0.05), "undecided")])  # p = 0.03 each, 0.1 by Holm's correction
def test_deep_nets(study, gains, verdict):
    found = claims_norm.deep_nets(study(deep(*gains)))
    assert found.verdict == verdict, found
    assert (found.reason == "") == (verdict == "supported")


# --- 10


def optimizers(adam, rmsprop, sgd=0.5):
    gains = {("sgd", 0.9): sgd, ("adam", 0.9): adam, ("adam", 0): rmsprop}
    levels = {(kind, *key): 97 + (gain if kind == "batch" else 0)
              for key, gain in gains.items() for kind in ("none", "batch")}
    return experiment("optimizers", cells(levels, ("norm.kind", "train.optimizer", "train.beta1")))


@pytest.mark.parametrize("gains, verdict", [
    ((-1, 0.5), "supported"), ((0.5, 0.5), "refuted"), ((0.02, 0), "refuted"),
    ((-0.1, 0.5), "supported"), ((-0.03, 0.5), "refuted"), ((0.5, -0.09), "supported"),
    ((-0.05, 0), "refuted")])  # p = 0.04, 0.09 by Holm's correction
def test_optimizers(study, gains, verdict):
    found = claims_norm.optimizers(study(optimizers(*gains)))
    assert found.verdict == verdict, found


def test_an_optimizer_that_cannot_be_told(study):
    few = optimizers(-0.05, 0.5)
    for cell in few.cells:
        cell.trials = cell.trials[:2]
    assert claims_norm.optimizers(study(few)).verdict == "undecided"


# --- a setting that claims state


@pytest.mark.parametrize("claim, made", [
    (claims_norm.steps, lambda: convergence(1000, 500)),
    (claims_norm.seconds, lambda: convergence(1000, 500)),
    (claims_norm.initial_weights, init_scale)])
@pytest.mark.parametrize("validation, found", [("test", "test data"), ("0.1", "nothing")])
def test_rates_must_be_tuned_on_validation_data(study, claim, made, validation, found):
    planted = made()
    planted.options["data.validation"] = validation
    if validation != "test":
        planted.cells[0].tuning = None
    told = claim(study(planted))
    assert told.verdict == "undecided" and told.effect
    assert told.reason.startswith(f"'{planted.name}' has learning rates tuned on {found}")
    assert told.reason.endswith(" instead of validation data")
