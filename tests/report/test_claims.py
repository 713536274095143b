"""Each claim is supported by data with its effect, refuted by data with the opposite, and
undecided where the data cannot tell."""

import math

import pytest

from report import claims, claims_batch, claims_norm
from support.planted import TUNED, accuracies, cells, experiment, factor, noise
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


@pytest.mark.parametrize("plain, norm, verdict", [
    ((20, 97), (96, 97), "supported"), ((96, 97), (20, 97), "refuted"),
    ((96, 97), (96, 97), "undecided")])
def test_initial_weights(study, plain, norm, verdict):
    levels = {(kind, std): values[i] for kind, values in (("none", plain), ("batch", norm))
              for i, std in enumerate((0.01, 1))}
    made = cells(levels, ("norm.kind", "model.init_std"))
    assert claims_norm.initial_weights(study(experiment("init_scale", made))).verdict == verdict


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


# --- 5


def m_sweep(levels):
    return experiment("m_sweep", cells({("batch", m): a for m, a in levels.items()},
                                       ("norm.kind", "norm.batch")))


@pytest.mark.parametrize("levels, verdict", [
    ({2: 95, 4: 96.5, 32: 97, 128: 97}, "supported"), ({2: 97, 4: 97, 32: 97, 128: 97}, "refuted"),
    ({2: 97.5, 4: 97, 32: 97, 128: 97}, "refuted"), ({128: 97}, "undecided")])
def test_small_groups(study, levels, verdict):
    found = claims_batch.small_groups(study(m_sweep(levels)))
    assert found.verdict == verdict, found
    assert ("hurt at M = 2, 4" in found.effect) == (verdict == "supported")


def test_few_noisy_seeds_neither_show_nor_exclude_harm(study):
    sweep = m_sweep({2: 96.9, 128: 97})
    sweep.cells[0].trials = [Trial(1, finals=accuracies(95.9, 1, 0)),
                             Trial(2, finals=accuracies(97.5, 2, 0))]
    assert claims_batch.small_groups(study(sweep)).verdict == "undecided"


# --- 6


def noise_scale(scale, kind="none"):
    def rows(seed):
        return [{"step": step, "small_batch": 128, "big_batch": 4096, "small_norm2": 2,
                 "big_norm2": 1, "gradient_norm2": 1 / (1 + step),
                 "noise": scale * factor(seed) / (1 + step)} for step in range(8)]
    trials = [Trial(seed, tables={"noise_scale": rows(seed)}) for seed in SEEDS]
    return experiment("noise_scale", [Cell({"norm.kind": kind}, trials)])


@pytest.mark.parametrize("scale, verdict", [(64, "supported"), (1000, "refuted"), (5, "refuted"),
                                            (128, "undecided"), (-3, "undecided")])
def test_plateau(study, scale, verdict):
    assert claims_batch.plateau(study(noise_scale(scale))).verdict == verdict


def test_the_noise_scale_of_batch_norm_is_another(study):
    assert claims_batch.plateau(study(noise_scale(64, "batch"))).verdict == "undecided"


# --- 7


def cost(memory, seconds, steady=False):
    def cell(kind, batch, arm, size, step):
        return Cell({"norm.kind": kind, "train.batch": str(batch)}, [
            Trial(s, cost={"peak_tensor_bytes": size,
                           "step_s": step * (1 if steady else factor(s, arm))}) for s in SEEDS])
    return experiment("cost", [cell(kind, batch, arm, 1e6 * (memory if arm else 1),
                                    1e-3 * (seconds if arm else 1))
                               for batch in (32, 128)
                               for arm, kind in enumerate(("none", "batch"))])


@pytest.mark.parametrize("by, verdict", [(1.3, "supported"), (0.8, "refuted")])
def test_cost(study, by, verdict):
    results = study(cost(by, by))
    found = claims_batch.memory(results)
    assert found.verdict == verdict and found.n == 5 and "the same on every seed" in found.effect
    assert claims_batch.time(results).verdict == verdict


def test_times_of_a_busy_machine_are_undecided(study):
    busy = cost(1.3, 2.0)
    for seed, trial in enumerate(busy.cells[0].trials):
        trial.cost["step_s"] *= 1 + 0.2 * seed
    found = claims_batch.time(study(busy))
    assert found.verdict == "undecided" and "other work" in found.reason


def test_equal_times_are_undecided(study):
    assert claims_batch.time(study(cost(1.0, 1.0))).verdict == "undecided"


# --- 8


def evaluation(gap, seeds=5, unsteady=0.0):
    made = []
    for momentum, value in (("0.1", 0.0), ("0.01", gap)):
        made.append(Cell({"norm.momentum": momentum, "train.batch": "128"}, [
            Trial(s, finals=accuracies(
                97 - value - unsteady * (-1) ** s, s, 0) | accuracies(
                    0, s, 1, test_recomputed=97) | {"test_running_accuracy": (
                        97 - value - unsteady * (-1) ** s + noise(s, 2)) / 100})
            for s in range(1, seeds + 1)]))
    return experiment("evaluation", made)


@pytest.mark.parametrize("values, verdict", [
    ((2.0,), "supported"), ((0.0,), "refuted"), ((0.5, 5, 3.0), "undecided"),
    ((2.0, 1), "undecided")])
def test_running_statistics(study, values, verdict):
    assert claims_batch.running_statistics(study(evaluation(*values))).verdict == verdict


# --- 9


def deep(he, torch):
    shallow, layers = "128,128", ",".join(["128"] * 8)
    levels = {}
    for init, gain in (("he", he), ("torch", torch)):
        levels |= {("none", init, layers): 90, ("batch", init, layers): 90 + gain,
                   ("none", init, shallow): 97, ("batch", init, shallow): 97}
    return experiment("depth", cells(levels, ("norm.kind", "model.init", "model.hidden")))


@pytest.mark.parametrize("gains, verdict", [((5, 50), "supported"), ((-5, -1), "refuted"),
                                            ((-5, 50), "undecided"), ((0, 0), "undecided")])
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
    ((-0.1, 0.5), "supported"), ((-0.03, 0.5), "refuted"), ((0.5, -0.09), "supported")])
def test_optimizers(study, gains, verdict):
    found = claims_norm.optimizers(study(optimizers(*gains)))
    assert found.verdict == verdict, found


def test_an_optimizer_that_cannot_be_told(study):
    few = optimizers(-0.05, 0.5)
    for cell in few.cells:
        cell.trials = cell.trials[:2]
    assert claims_norm.optimizers(study(few)).verdict == "undecided"


# --- 11


def batch_sizes(speed, stability, censored=()):
    made = []
    for arm, batch in enumerate((16, 64, 256)):
        trials = []
        for seed in SEEDS:
            samples = 20_000 * (batch / 16) ** speed * factor(seed, arm)
            scatter = 0.01 * (batch / 16) ** stability * factor(seed, arm)
            rows = [{"step": i, "epoch": i, "val_running_accuracy":
                     0.9 + scatter * (-1) ** i + 1e-5 * seed * i * i} for i in range(1, 11)]
            rows[-1] |= {"val_recomputed_accuracy": 0.9}
            steps = None if batch in censored else round(samples / batch)
            trials.append(Trial(seed, steps=1300, targets={0.05: steps},
                                tables={"measurements": rows}))
        made.append(Cell({"train.batch": str(batch)}, trials))
    return experiment("batch_sizes", made)


@pytest.mark.parametrize("values, verdict", [
    ((0.5, -0.5), "supported"), ((-0.5, -0.5), "refuted"), ((0.5, 0.5), "refuted"),
    ((0.0, -0.5), "undecided"), ((0.5, -0.5, [256]), "supported"),
    ((-0.5, -0.5, [16]), "refuted"), ((0.5, -0.5, [16]), "undecided"),
    ((0.5, -0.5, [16, 256]), "undecided")])
def test_speed_for_stability(study, values, verdict):
    found = claims_batch.speed_for_stability(study(batch_sizes(*values)))
    assert found.verdict == verdict, found


def test_a_batch_size_that_diverges_bounds_no_speed(study):
    made = batch_sizes(0.5, -0.5, [256])
    made.cells[2].trials[0].status = "DIVERGED"
    found = claims_batch.speed_for_stability(study(made))
    assert found.verdict == "undecided" and "5 trials never reached" in found.reason


# --- the table


PRINTED = (94.56, 95.12, 95.62, 96.25)


def notebook(levels):
    made = [Cell({"train.batch": str(batch)},
                 [Trial(s, finals=accuracies(0, s, arm, val_running=level)) for s in SEEDS])
            for arm, (batch, level) in enumerate(zip((16, 32, 64, 128), levels))]
    return experiment("notebook_output_norm_batches", made)


@pytest.mark.parametrize("levels, verdict", [
    (PRINTED, "supported"), ((97, 97, 96.5, 97.5), "refuted"),
    ((97, 97, 97, 97), "undecided"), ((98, 97.9, 97.8, 97.5), "refuted"), ((97, 98), "undecided")])
def test_printed_table(study, levels, verdict):
    found = claims_batch.printed_table(study(notebook(levels)))
    assert found.verdict == verdict, found


# --- settings that a claim states


def init_scale():
    return experiment("init_scale", cells({
        ("none", 0.01): 20, ("none", 1): 97, ("batch", 0.01): 96, ("batch", 1): 97},
        ("norm.kind", "model.init_std")))


@pytest.mark.parametrize("claim, made, key, value, sentence", [
    (claims_batch.small_groups, lambda: m_sweep({2: 95, 128: 97}), "train.batch", "256",
     "B 256 instead of 128"),
    (claims_batch.printed_table, lambda: notebook(PRINTED), "data.name", "fashion-mnist",
     "data.name fashion-mnist instead of mnist"),
    *((claim, made, "data.validation", "test",
       "learning rates tuned on test data instead of validation data")
      for claim, made in ((claims_norm.steps, lambda: convergence(1000, 500)),
                          (claims_norm.seconds, lambda: convergence(1000, 500)),
                          (claims_norm.initial_weights, init_scale)))])
def test_another_setting_than_the_stated_one(study, claim, made, key, value, sentence):
    planted = made()
    planted.options[key] = value
    found = claim(study(planted))
    assert found.verdict == "undecided" and found.effect
    assert found.reason == f"'{planted.name}' has {sentence}"
