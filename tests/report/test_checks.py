"""Each check passes on data with the phenomenon, fails on data without it, and is undecided where
data are lacking or cannot tell."""

import dataclasses
import math
import re

import pandas as pd
import pytest

from report import checks, checks_norm, checks_published, checks_scaling, verdicts
from support.planted import accuracies, cells, experiment
from support.planted_checks import (deep, ema, hoffer, ioffe, keskar, lr_tolerance, m_sweep,
                                    noise_law, noise_scale, rules, steps_to_target)
from support.study_tree import Trial


def test_all_checks_without_data_are_undecided_with_a_reason(study):
    verdicts = checks.all_checks(study(experiment("other", cells({("none",): 97}, ("norm.kind",)))))
    assert [v.id for v in verdicts] == ["S1", *(f"S{i}" for i in range(3, 14))]
    for verdict in verdicts:
        assert verdict.verdict == "undecided" and verdict.reason, verdict
        assert verdict.low is None and verdict.n == 0 and verdict.claim and verdict.figure


def judged(check, study, made, verdict, reason=""):
    found = check(study(*made))
    assert found.verdict == verdict, found
    assert reason in found.reason, found
    assert (found.reason == "") == (verdict == "pass")
    return found


# --- S1


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"censored": True}, "pass", ""), ({"faster": 2.0}, "fail", "5 times fewer"),
    ({"level": 95.0}, "fail", "96.5 %"), ({"gain": -1.0}, "fail", "no less than"),
    ({"drift": 2.0}, "fail", "less drift"), ({"faster": 5.0}, "undecided", "5 times fewer")])
def test_s1(study, values, verdict, reason):
    judged(checks_published.s1, study, ioffe(**values), verdict, reason)


# --- S3


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"large": 98.03}, "fail", "a gap"), ({"large": 97.2}, "fail", "a gap"),
    ({"small": 98.9, "large": 98.6}, "fail", "print"),
    ({"batches": (64, 1000)}, "undecided",
     "'keskar' has B 64, 1,000 instead of 256 or 6,000"),
    ({"limit": "10000"}, "undecided", "'keskar' has data.limit 10,000 instead of 0")])
def test_s3(study, values, verdict, reason):
    found = judged(checks_published.s3, study, keskar(**values), verdict, reason)
    assert found.low is not None


# --- S4


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"base": 98.1, "rule": 98.3}, "fail", "a gap of at least"),
    ({"rule": 97.1}, "fail", "25 %"), ({"adapted": 97.9}, "fail", "below the small batch"),
    ({"batches": (128, 1024)}, "undecided", "B 128, 1,024 instead of 128 or 4,096"),
    ({"model__hidden": "64,64"}, "undecided", "model.hidden 64,64 instead of 512,512,512,512,512"),
    ({"data__limit": "2000"}, "undecided", "data.limit 2,000 instead of 0"),
    ({"data__augment": "none"}, "undecided", "data.augment none instead of crop-flip")])
def test_s4(study, values, verdict, reason):
    found = judged(checks_published.s4, study, hoffer(**values), verdict, reason)
    assert ("without the published augmentation" in " ".join(found.flags)) == (
        values.get("data__augment") == "none")


def test_s4_of_fewer_epochs_is_no_published_training(study):
    [made] = hoffer()
    for cell in made.cells:
        cell.settings["train.epochs"] = {"50": "5", "1600": "20"}[cell.settings["train.epochs"]]
    judged(checks_published.s4, study, [made], "undecided",
           "train.epochs 5, 20 instead of 50 or 1,600")


# --- S5, S8


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"tests": {2: 96.5}}, "fail", "1 point"),
    ({"tests": {4: 97.5}}, "fail", "M = 4"), ({"tests": {128: 96.0}}, "fail", "within 0.2"),
    ({"layer": (97.0, 96.0)}, "fail", "layer norm"), ({"share": 0.5}, "fail", "at most 1 %"),
    ({"tail": 2.0}, "fail", "tail"), ({"trains": {2: 99.9}}, "fail", "monotone"),
    ({"trains": {2: 96.999}}, "pass", ""), ({"trains": {2: 97.01}}, "undecided", "monotone"),
    ({"seeds": [1]}, "undecided", "at least 2 seeds")])
def test_s5(study, values, verdict, reason):
    judged(checks_norm.s5, study, m_sweep(**values), verdict, reason)


def test_s5_is_of_both_nets(study):
    sigmoid = {"name": "m_sweep_sigmoid", "activation": "sigmoid"}
    found = judged(checks_norm.s5, study, m_sweep() + m_sweep(**sigmoid), "pass")
    assert "sigmoid net, M = 32 better" in found.effect
    assert "without 'm_sweep_sigmoid'" in judged(checks_norm.s5, study, m_sweep(), "pass").effect
    judged(checks_norm.s5, study, m_sweep() + m_sweep(share=0.5, **sigmoid), "fail",
           "sigmoid net, not so: a median gradient")


def test_s5_a_rise_that_is_one_of_several_must_pass_holms_correction(study):
    """The rise from M = 4 to 2 alone has p = 0.02."""
    made = m_sweep(trains={2: 97.06, 4: 97.0, 32: 97.0, 128: 97.0})
    judged(checks_norm.s5, study, made, "undecided", "not shown: training error monotone")


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


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"nets": 1}, "pass", ""), ({"power": -0.9}, "fail", "slope"),
    ({"power": -1.07}, "fail", "slope"), ({"level": 1.2}, "fail", "outside 0.9 to 1.1"),
    ({"variance_power": -0.8}, "fail", "variance"), ({"variance_power": -1.2}, "fail", "variance")])
def test_s6(study, values, verdict, reason):
    judged(checks_norm.s6, study, noise_law(**values), verdict, reason)


# --- S7


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"scatter": 1.2}, "fail", "twice"),
    ({"after": 0.5}, "fail", "after the decay"),
    ({"off": -0.3}, "fail", "1,000 samples"), ({"off": -0.05}, "undecided", "1,000 samples")])
def test_s7(study, values, verdict, reason):
    judged(checks_norm.s7, study, ema(**values), verdict, reason)


# --- S9, S10


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


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"average": 150.0}, "fail", "300 to 3,000"),
    ({"growth": 2.0}, "fail", "at least 5 times"), ({"negative": True}, "undecided", ""),
    ({"negative": True, "average": -900.0}, "undecided", "no seed")])
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


def test_s10_compares_like_with_like(study):
    other = [dataclasses.replace(made, options={**made.options, "model.hidden": "64"})
             for made in noise_scale()]
    judged(checks_scaling.s10, study, other + steps_to_target(), "undecided",
           "different trainings: model.hidden is 64 and")


def test_s10_without_s9(study):
    judged(checks_scaling.s10, study, noise_scale(), "undecided", "no critical batch")


# --- S11


@pytest.mark.parametrize("arguments, verdict, reason", [
    (((0, 0, 2),), "pass", ""), (((0, None, None),), "pass", ""),
    (((2, 3, 4),), "fail", "fails at"),
    (((0, 0, 0),), "undecided", "no end is seen"), (((0.2, 0.2, 0.2),), "undecided", "across"),
    (((0, 0, 2), 0.1, 0.4), "undecided", "no cell of the tuned rate")])
def test_s11(study, arguments, verdict, reason):
    found = judged(checks_scaling.s11, study, rules(*arguments), verdict, reason)
    assert ("between 2,048 and 8,192" in found.effect) == (arguments == ((0, 0, 2),))


def test_s11_judges_both_rules(study):
    judged(checks_scaling.s11, study, rules((0, 0, 2), sqrt=(2, 3, 4)), "fail", "the sqrt rule fails")
    judged(checks_scaling.s11, study, rules((0, 0, 2), sqrt=(0, 0, 0)), "undecided", "the sqrt rule")


def test_the_last_batch_of_a_rule_is_where_its_loss_crosses():
    losses = {512: pd.Series([0.0, 0.1], [1, 2]), 2048: pd.Series([0.4, 0.3], [1, 2])}
    found = checks_scaling.last_batch(losses)
    assert found.value == pytest.approx(1024) and found.low is None, "half of the way, both"
    losses[2048] = pd.Series([0.4, math.inf], [1, 2])
    assert checks_scaling.last_batch(losses).value == pytest.approx((1024 * 512) ** 0.5)
    losses[2048] = pd.Series([0.4, 0.2], [1, 2])
    assert math.isnan(checks_scaling.last_batch(losses).value), "a seed's loss never crosses"
    assert checks_scaling.last_batch({512: pd.Series([0.4], [1])}).value == pytest.approx(256)


# --- S12


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"norm": 1.9}, "fail", "1.2 to 1.7"), ({"norm": 1.0}, "fail", "1.2 to 1.7"),
    ({"plain": 1.5}, "fail", "0.8 to 1.2"), ({"gain": 1.0}, "fail", "not better than 4"),
    ({"ragged": 0.8}, "fail", "below 0.95"), ({"gain": 0.1}, "undecided", "not better")])
def test_s12(study, values, verdict, reason):
    judged(checks_norm.s12, study, deep(**values), verdict, reason)


# --- S13


@pytest.mark.parametrize("values, verdict, reason", [
    ({}, "pass", ""), ({"norm": 10_000.0}, "pass", ""),
    ({"norm": 0.1, "plain": 100}, "fail", "5 times"),
    ({"norm": 10.0}, "undecided", "5 times"), ({"low_gain": 2.0}, "fail", "lowest rate"),
    ({"layers": 2}, "undecided", "5 hidden layers"),
    ({"plain": 1e9}, "undecided", "no rate diverges")])
def test_s13(study, values, verdict, reason):
    judged(checks_norm.s13, study, lr_tolerance(**values), verdict, reason)


def test_a_label_goes_before_what_there_is():
    [part, nothing] = verdicts.labelled(
        [verdicts.Part(verdicts.HOLDS, "found"), verdicts.missing("too little")], "he: ")
    assert (part.text, part.reason) == ("he: found", "")
    assert (nothing.text, nothing.reason) == ("", "he: too little")


def test_s13_judges_every_depth_and_init(study):
    deep, deeper = lr_tolerance()[0], lr_tolerance(low_gain=2.0, layers=8)[0]
    both = dataclasses.replace(deep, cells=[*deep.cells, *deeper.cells])
    judged(checks_norm.s13, study, [both], "fail", "8 layers: not so: agreement")
    both = dataclasses.replace(deep, cells=[*deep.cells, *lr_tolerance(layers=8)[0].cells])
    found = judged(checks_norm.s13, study, [both], "pass")
    assert "at 5 hidden" in found.effect and "at 8 hidden" in found.effect


def test_s7_reads_the_highest_rate_at_which_none_diverges(study):
    made = ema()
    calm = ema(scatter=1.0)
    for cell in made[0].cells:
        cell.settings["train.lr"] = "1.6"
    for cell, rate, status in zip(calm[0].cells * 2, (0.8, 0.8, 6.4, 6.4),
                                  ("COMPLETE", "COMPLETE", "DIVERGED", "DIVERGED")):
        made[0].cells.append(dataclasses.replace(
            cell, settings={**cell.settings, "train.lr": f"{rate:g}"},
            trials=[dataclasses.replace(trial, lr=rate, status=status if trial.seed == 1 else
                                        "COMPLETE") for trial in cell.trials]))
    judged(checks_norm.s7, study, made, "pass")


def test_s12_is_of_hes_initial_weights(study):
    made = deep()
    other = deep(norm=3.0, plain=0.3)
    for cell, init in [(c, "he") for c in made[0].cells] + [(c, "torch") for c in other[0].cells]:
        cell.settings["model.init"] = init
    made[0].cells += other[0].cells
    judged(checks_norm.s12, study, made, "pass")


def test_s11_takes_the_first_failure(study):
    found = checks_scaling.s11(study(*rules((0, 2, 0))))
    assert "between 512 and 2,048" in found.effect


def test_s9_takes_the_mean_over_seeds(study):
    made = steps_to_target()
    [cell] = [c for c in made[0].cells if list(c.settings.values()) == ["none", "128"]]
    cell.trials[0].targets[0.05] *= 4  # of five: by 2 to the 0.4 on the mean, at one end of four B
    slopes = [float(re.search(r"slope −([\d.]+)", checks_scaling.s9(study(*each)).effect)[1])
              for each in (steps_to_target(), made)]
    assert slopes[0] - slopes[1] == pytest.approx(0.3 * 0.4, abs=0.02)


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
