"""Each check passes on data with the phenomenon, fails on data without it, and is undecided where
data are lacking or cannot tell."""

import dataclasses

import pytest

from report import checks, checks_norm, checks_published, checks_scaling
from support.planted import accuracies, cells, experiment, factor, judged, noise
from support.study_tree import Cell, Trial

SEEDS = range(1, 6)


def test_all_checks_without_data_are_undecided_with_a_reason(study):
    verdicts = checks.all_checks(study(experiment("other", cells({("none",): 97}, ("norm.kind",)))))
    assert [v.id for v in verdicts] == ["S1", *(f"S{i}" for i in range(3, 14))]
    for verdict in verdicts:
        assert verdict.verdict == "undecided" and verdict.reason, verdict
        assert verdict.low is None and verdict.n == 0 and verdict.claim and verdict.figure


# --- S1


def ioffe(faster=8.0, level=97.0, gain=1.0, drift=5.0, censored=False):
    def units(seed, size):
        return [{"step": 100 * i, "unit": unit, "p15": 0, "p85": 0,
                 "p50": size * factor(seed, int(size)) * (-1) ** i}
                for i in range(6) for unit in (0, 1)]
    equal = [Cell({"norm.kind": kind}, [
        Trial(s, steps=40_000, targets={0.05: steps and round(steps * factor(s, arm))})
        for s in SEEDS])
        for arm, (kind, steps) in enumerate((("none", None if censored else 2000 * faster),
                                             ("batch", 2000)))]
    tuned = [Cell({"norm.kind": kind}, [Trial(s, finals=accuracies(value, s, arm),
                                              tables={"units": units(s, size)}) for s in SEEDS])
             for arm, (kind, value, size) in enumerate((("none", level - gain, drift),
                                                        ("batch", level, 1.0)))]
    return [experiment("ioffe_equal", equal), experiment("ioffe_tuned", tuned)]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"censored": True}, "pass", ""), ({"faster": 2.0}, "fail", "5 times fewer"),
    ({"level": 95.0}, "fail", "96.5 %"), ({"gain": -1.0}, "fail", "no less than"),
    ({"drift": 2.0}, "fail", "less drift"), ({"faster": 5.0}, "undecided", "5 times fewer")])
def test_s1(study, values, verdict, reason):
    judged(checks_published.s1, study, ioffe(**values), verdict, reason)


# --- S3


def keskar(small=98.03, large=97.81, batches=(256, 6000), limit="0"):
    levels = {(batches[0], batches[0]): small, (batches[1], batches[1]): large,
              (batches[1], 250): small}
    made = cells(levels, ("train.batch", "norm.batch"))
    for cell in made:  # seeds that differ less: print's own deviation is 0.07
        for trial in cell.trials:
            trial.finals["test_running_accuracy"] -= 0.7 * noise(trial.seed) / 100
    return [experiment("keskar", made, data__limit=limit)]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"large": 98.03}, "fail", "a gap"), ({"large": 97.2}, "fail", "a gap"),
    ({"small": 98.9, "large": 98.6}, "fail", "print"),
    ({"batches": (64, 1000)}, "undecided", "published size"),
    ({"limit": "10000"}, "undecided", "published size")])
def test_s3(study, values, verdict, reason):
    found = judged(checks_published.s3, study, keskar(**values), verdict, reason)
    assert found.low is not None


# --- S5, S8

BASE = {2: (94.0, 93.0), 4: (96.0, 97.0), 32: (97.0, 99.0), 128: (97.0, 99.5)}


def m_sweep(tests=None, trains=None, share=0.001, tail=100.0, layer=(97.0, 97.0),
            batch_gap=None, seeds=SEEDS):
    tests, trains, batch_gap = tests or {}, trains or {}, batch_gap or {}
    gaps = {2: 3.0, 4: 1.0, 32: 0.0, 128: 0.0} | batch_gap
    made = []
    for arm, (m, (test, train)) in enumerate(BASE.items()):
        median = share if m == 2 else 1.0
        trials = []
        for s in seeds:
            rows = [{"step": 1000, "layer": index, "type": "BatchNorm1d", "m": m, "name": "1",
                     "group_gradient_median": median * factor(s, arm) * (1 if index == 4 else 7),
                     "group_gradient_p99": median * tail, "gain_median": median}
                    for index in (1, 4)]
            level = tests.get(m, test)
            finals = {**accuracies(0, s, arm + 1, test_recomputed=level),
                      **accuracies(0, s, arm + 2, test_batch=level - gaps[m]),
                      **accuracies(level, s, arm, train_running=trains.get(m, train))}
            trials.append(Trial(s, finals=finals, tables={"layers": rows}))
        made.append(Cell({"norm.kind": "batch", "norm.batch": str(m)}, trials))
    for arm, (m, level) in enumerate(zip((2, 128), layer)):
        made.append(Cell({"norm.kind": "layer", "norm.batch": str(m)}, [
            Trial(s, finals=accuracies(level, s, 0 if layer[0] == layer[1] else arm))
            for s in seeds]))
    return [experiment("m_sweep", made)]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"tests": {2: 96.5}}, "fail", "1 point"),
    ({"tests": {4: 97.5}}, "fail", "M = 4"), ({"tests": {128: 96.0}}, "fail", "within 0.2"),
    ({"layer": (97.0, 96.0)}, "fail", "layer norm"), ({"share": 0.5}, "fail", "at most 1 %"),
    ({"tail": 2.0}, "fail", "tail"), ({"trains": {2: 99.9}}, "fail", "monotone"),
    ({"trains": {2: 96.999}}, "pass", ""), ({"trains": {2: 97.01}}, "undecided", "monotone"),
    ({"seeds": [1]}, "undecided", "at least 2 seeds")])
def test_s5(study, values, verdict, reason):
    judged(checks_norm.s5, study, m_sweep(**values), verdict, reason)


def test_s5_layer_norm_that_hardly_varies_is_flat(study):
    made = m_sweep(seeds=[1, 2, 3])
    for cell in made[0].cells[-2:]:
        for trial in cell.trials:
            off = 0.0003 if cell is made[0].cells[-1] and trial.seed == 1 else 0.0
            trial.finals["test_running_accuracy"] = 0.97 + off
    judged(checks_norm.s5, study, made, "pass")


@pytest.mark.parametrize("gap, verdict, reason", [
    ({}, "pass", ""), ({32: 0.5}, "fail", "at M = 32"),
    ({2: 0.02, 4: 0.5, 32: 0.7, 128: 3}, "fail", "shrinks"),
    ({4: 0.0}, "undecided", "no change"), ({128: 0.1}, "undecided", "at M = 128")])
def test_s8(study, gap, verdict, reason):
    judged(checks_norm.s8, study, m_sweep(batch_gap=gap), verdict, reason)


# --- S6


def noise_law(power=-1.0, level=1.0, variance_power=-1.0, nets=3):
    def rows(seed):
        def of(m, slope):
            return factor(seed, m.bit_length()) ** 0.2 * (m / 16) ** (slope + 1) / m
        return [{"layer": layer, "m": m, "draws": 200, "mean_noise_theory": 1 / m,
                 "mean_noise": level * of(m, power),
                 "variance_noise_theory": 2 / m,
                 "variance_noise": 2 * of(m, variance_power)}
                for layer in (1, 4) for m in (2, 4, 8, 16, 32, 64, 128)]
    return [experiment("noise_law", [Cell({}, [Trial(s, tables={"noise_law": rows(s)})
                                               for s in range(1, nets + 1)])])]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"nets": 1}, "pass", ""), ({"power": -0.9}, "fail", "slope"),
    ({"power": -1.07}, "fail", "slope"), ({"level": 1.2}, "fail", "outside 0.9 to 1.1"),
    ({"variance_power": -0.8}, "fail", "variance"), ({"variance_power": -1.2}, "fail", "variance")])
def test_s6(study, values, verdict, reason):
    judged(checks_norm.s6, study, noise_law(**values), verdict, reason)


# --- S7


def ema(scatter=4.0, after=0.0, off=0.0):
    made = []
    for population in (1000, 55000):
        trials = []
        for s in SEEDS:
            rows = []
            for i in range(1, 25):
                late = i > 16
                exact = 0.97 + (0 if late else 0.002 * (-1) ** i * factor(s))
                running = exact + (after / 100 if late else 0.002 * (scatter - 1) * (-1) ** i)
                rows.append({"step": 13 * i, "epoch": i / 2, "lr": 1.6,
                             "val_running_accuracy": running + late * noise(s, 2) / 1e4,
                             "val_recomputed_accuracy": exact})
            rows[-1]["val_recomputed_accuracy"] += (
                (off + 0.02 * noise(s)) / 100 if population == 1000 else 0)
            trials.append(Trial(s, lr=1.6, tables={"measurements": rows}))
        made.append(Cell({"study.x": "1", "measure.population": str(population)}, trials))
    return [experiment("ema", made, train__milestones="8", train__batch="2048")]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"scatter": 1.2}, "fail", "twice"),
    ({"after": 0.5}, "fail", "after the decay"),
    ({"off": -0.3}, "fail", "1000 samples"), ({"off": -0.05}, "undecided", "1000 samples")])
def test_s7(study, values, verdict, reason):
    judged(checks_norm.s7, study, ema(**values), verdict, reason)


# --- S9, S10


def steps_to_target(minimum=60, samples=60_000, top=65_536, censored=(), power=None):
    made = []
    for kind in ("none", "batch"):
        for arm, b in enumerate(2 ** i for i in range(4, top.bit_length())):
            steps = minimum + samples / b if power is None else 5e6 * (b / 16) ** power
            trials = [Trial(s, steps=9000, targets={0.05: None if b in censored and s < 4 else
                                                    round(steps * factor(s, arm) ** 0.3)})
                      for s in SEEDS]
            made.append(Cell({"norm.kind": kind, "train.batch": str(b)}, trials))
    return [experiment("steps_to_target", made)]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"top": 8192}, "undecided", "short of the whole"),
    ({"power": -0.6}, "fail", "slope of −1.0"), ({"power": -1.0}, "fail", "at least −0.3"),
    ({"censored": (16,)}, "undecided", "never reached"), ({"top": 32}, "undecided", "at least 3")])
def test_s9(study, values, verdict, reason):
    judged(checks_scaling.s9, study, steps_to_target(**values), verdict, reason)


def test_s9_counts_batch_sizes_and_not_their_seeds(study):
    made = steps_to_target()
    for i, cell in enumerate(made[0].cells):  # a rate too low at every other B is all seeds' error
        for trial in cell.trials:
            trial.targets[0.05] = round(trial.targets[0.05] * (1.15 if i % 2 else 1))
    found = judged(checks_scaling.s9, study, made, "undecided", "n = 4 neither shows nor excludes")
    assert found.n == 4


def test_s9_names_the_batch_sizes_whose_median_is_censored(study):
    found = checks_scaling.s9(study(*steps_to_target(censored=(16, 64))))
    assert "without B = 16 and 64, whose median is censored" in found.effect
    assert "whose median" not in checks_scaling.s9(study(*steps_to_target())).effect


def noise_scale(average=900.0, growth=20.0, negative=False):
    def rows(seed):
        return [{"step": i, "small_batch": 128, "big_batch": 4096, "small_norm2": 2, "big_norm2": 1,
                 "gradient_norm2": (-1 if negative else 1) / (1 + i),
                 "noise": average * factor(seed, i) / (1 + i) * (1 + (growth - 1) * (i // 2) / 3)
                 / ((1 + growth) / 2)} for i in range(8)]
    return [experiment("noise_scale", [Cell({"norm.kind": "none"}, [
        Trial(s, tables={"noise_scale": rows(s)}) for s in SEEDS])])]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"average": 150.0}, "fail", "300 to 3,000"),
    ({"growth": 2.0}, "fail", "at least 5 times"), ({"negative": True}, "undecided", "")])
def test_s10(study, values, verdict, reason):
    judged(checks_scaling.s10, study, noise_scale(**values) + steps_to_target(), verdict, reason)


def test_s10_holds_the_critical_batch_against_it(study):
    judged(checks_scaling.s10, study, noise_scale() + steps_to_target(minimum=5), "fail",
           "factor of 5")


def test_s10_takes_both_intervals_into_account(study):
    made = noise_scale(average=700.0, growth=20.0)
    for trial, own in zip(made[0].cells[0].trials, (0.1, 0.4, 1, 2.5, 10)):
        for row in trial.tables["noise_scale"]:
            row["noise"] *= own
    found = checks_scaling.s10(study(*made, *steps_to_target()))
    scale = checks_scaling.geometric(checks_scaling.noise_scales(study(*made), "none")["average"])
    assert scale.high / scale.low > 25, "so no quotient can be within 1/5 and 5"
    assert "factor of 5" in found.reason and found.verdict == "undecided"


def test_s10_without_s9(study):
    judged(checks_scaling.s10, study, noise_scale(), "undecided", "no critical batch")


# --- S11


def rules(losses, rate=0.1, chosen=0.1):
    sizes = (128, 512, 2048, 8192)
    tuned = [Cell({"train.batch": str(b)}, [Trial(s, lr=chosen, finals=accuracies(97, s, 0))
                                            for s in SEEDS]) for b in sizes]
    ruled = []
    for rule in ("linear", "sqrt"):
        for b, loss in zip(sizes, (0, *losses)):
            trials = [Trial(s, lr=rate, finals=accuracies(97 - (loss or 0), s, 1),
                            status="COMPLETE" if loss is not None else "DIVERGED") for s in SEEDS]
            ruled.append(Cell({"train.batch": str(b), "train.lr_rule": rule}, trials))
    return [experiment("b_by_m", tuned), experiment("lr_rule", ruled)]


@pytest.mark.parametrize("arguments, verdict, reason", [
    (((0, 0, 2),), "pass", ""), (((0, None, None),), "pass", ""),
    (((2, 3, 4),), "fail", "fails at"),
    (((0, 0, 0),), "undecided", "no end is seen"), (((0.2, 0.2, 0.2),), "undecided", "across"),
    (((0, 0, 2), 0.1, 0.4), "undecided", "no cell of the tuned rate")])
def test_s11(study, arguments, verdict, reason):
    found = judged(checks_scaling.s11, study, rules(*arguments), verdict, reason)
    assert ("B* between 2,048 and 8,192" in found.effect) == (arguments == ((0, 0, 2),))


# --- S12


def deep(norm=1.45, plain=1.0, gain=-3.0, ragged=0.0):
    made = []
    for arm, (kind, layers) in enumerate((k, n) for k in ("none", "batch") for n in (4, 32)):
        growth = (norm if kind == "batch" else plain) ** 0.5
        level = 97 + gain if layers == 32 else 97
        trials = []
        for s in SEEDS:
            rows = [{"step": step, "layer": i, "name": str(i), "type": "Linear", "weight_norm": 1,
                     "gradient_norm": (growth * (1 + noise(s, arm) / 100)) ** (layers - i)
                     * (1 + ragged * (-1) ** i) * (9 if step else 1)}
                    for i in range(layers + 1) for step in (0, 100)]
            trials.append(Trial(s, finals=accuracies(level, s, arm), tables={"layers": rows}))
        made.append(Cell({"norm.kind": kind, "model.hidden": ",".join(["128"] * layers)}, trials))
    return [experiment("depth", made, model__init="he")]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"norm": 1.9}, "fail", "1.2 to 1.7"), ({"norm": 1.0}, "fail", "1.2 to 1.7"),
    ({"plain": 1.5}, "fail", "0.8 to 1.2"), ({"gain": 1.0}, "fail", "not better than 4"),
    ({"ragged": 0.8}, "fail", "below 0.95"), ({"gain": 0.1}, "undecided", "not better")])
def test_s12(study, values, verdict, reason):
    judged(checks_norm.s12, study, deep(**values), verdict, reason)


# --- S13


def lr_tolerance(plain=1.0, norm=100.0, low_gain=0.0, layers=5):
    made = []
    for arm, (kind, edge) in enumerate((("none", plain), ("batch", norm))):
        for lr in (0.01, 0.1, 1, 10, 100, 1000):
            trials = [Trial(s, lr=lr, status="DIVERGED" if lr >= edge else "COMPLETE",
                            finals=accuracies(95 + low_gain * arm, s, arm)) for s in range(1, 7)]
            made.append(Cell({"norm.kind": kind, "train.lr": f"{lr:g}",
                              "model.hidden": ",".join(["128"] * layers)}, trials))
    return [experiment("lr_tolerance", made)]


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"norm": 10_000.0}, "pass", ""),
    ({"norm": 0.1, "plain": 100}, "fail", "5 times"),
    ({"norm": 10.0}, "undecided", "5 times"), ({"low_gain": 2.0}, "fail", "lowest rate"),
    ({"layers": 2}, "undecided", "5 hidden layers"),
    ({"plain": 1e9}, "undecided", "no rate diverges")])
def test_s13(study, values, verdict, reason):
    judged(checks_norm.s13, study, lr_tolerance(**values), verdict, reason)


def test_two_seeds_give_wide_intervals_not_verdicts(study):
    made = m_sweep(seeds=[1, 2])
    made[0].cells[1] = dataclasses.replace(made[0].cells[1], trials=[
        Trial(1, finals=accuracies(96.9, 1, 0)), Trial(2, finals=accuracies(95.5, 2, 0))])
    judged(checks_norm.s5, study, made, "undecided", "n = 2")


def by_unknown_axis(made):
    """The same experiment twice over, by an axis that no verdict reads."""
    for each in made:
        each.cells = [dataclasses.replace(cell, settings={**cell.settings, "train.gamma": gamma})
                      for cell in each.cells for gamma in ("0.1", "0.5")]
    return made


@pytest.mark.parametrize("made", [ioffe, keskar, hoffer, m_sweep, steps_to_target, noise_scale,
                                  lambda: rules((0, 0, 2)), deep, lr_tolerance])
def test_an_axis_that_a_check_does_not_know_leaves_it_undecided(study, made):
    before = {v.id for v in checks.all_checks(study(*made())) if v.n}
    after = {v.id: v for v in checks.all_checks(study(*by_unknown_axis(made())))}
    assert before
    for check in before:
        assert after[check].verdict == "undecided" and after[check].claim
        assert "varies also by train.gamma" in after[check].reason, after[check]


def test_an_experiment_that_is_not_as_expected_leaves_a_check_undecided(study):
    made = ema()
    made[0].options["train.milestones"] = "half"
    found = {v.id: v for v in checks.all_checks(study(*made))}["S7"]
    assert found.verdict == "undecided" and "ValueError" in found.reason
