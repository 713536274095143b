"""Each claim on what the batch size does is supported by data with its effect, refuted by data with
the opposite, and undecided where the data cannot tell."""

import pytest

from report import claims_batch
from support.planted import accuracies, cells, experiment, factor, noise
from support.study_tree import Cell, Trial

SEEDS = range(1, 6)


# --- 5


def m_sweep(levels):
    return experiment("m_sweep", cells({("batch", m): a for m, a in levels.items()},
                                       ("norm.kind", "norm.batch")))


@pytest.mark.parametrize("levels, verdict", [
    ({2: 95, 4: 96.5, 32: 97, 128: 97}, "supported"), ({2: 97, 4: 97, 32: 97, 128: 97}, "refuted"),
    ({2: 97.5, 4: 97, 32: 97, 128: 97}, "refuted"), ({128: 97}, "undecided"),
    ({2: 96.96, 4: 97, 32: 97, 128: 97}, "refuted")])  # p = 0.02, 0.07 by Holm's correction
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


def test_a_plain_average_has_no_momentum(study):
    made = evaluation(2.0)
    for cell in made.cells:
        cell.settings["norm.cumulative"] = "false"
    plain = evaluation(0.0).cells[0]
    plain.settings["norm.cumulative"] = "true"
    made.cells.append(plain)
    found = claims_batch.running_statistics(study(made))
    assert found.verdict == "supported" and found.effect.count("momentum 0.1") == 1


@pytest.mark.parametrize("gap, verdict", [(0.05, "refuted"), (0.08, "undecided")])
def test_a_gap_must_be_more_than_significant(study, gap, verdict):
    """0.08 points have p = 0.01 by Holm's correction, and reach beyond 0.1."""
    assert claims_batch.running_statistics(study(evaluation(gap))).verdict == verdict


# --- 11


def batch_sizes(speed, stability, censored=()):
    made = []
    for arm, batch in enumerate((16, 64, 256)):
        trials = []
        for seed in SEEDS:
            samples = 20_000 * (batch / 16) ** speed * factor(seed, arm)
            scatter = 0.01 * (batch / 16) ** stability * factor(seed, arm)
            # In the first half, which does not count, it grows with the batch.
            rows = [{"step": i, "epoch": i, "val_running_accuracy":
                     0.9 + (scatter if i > 5 else 1e-3 * batch) * (-1) ** i + 1e-5 * seed * i * i}
                    for i in range(1, 11)]
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


# --- settings that claims state


@pytest.mark.parametrize("claim, made, key, value, sentence", [
    (claims_batch.small_groups, lambda: m_sweep({2: 95, 128: 97}), "train.batch", "256",
     "B 256 instead of 128"),
    (claims_batch.printed_table, lambda: notebook(PRINTED), "data.name", "fashion-mnist",
     "data.name fashion-mnist instead of mnist")])
def test_another_setting_than_the_stated_one(study, claim, made, key, value, sentence):
    planted = made()
    planted.options[key] = value
    found = claim(study(planted))
    assert found.verdict == "undecided" and found.effect
    assert found.reason == f"'{planted.name}' has {sentence}"
