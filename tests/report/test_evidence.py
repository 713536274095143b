"""What is picked from the results: diverged, censored and flagged trials."""

import dataclasses
import math

import pytest

from report import claims_norm, evidence, verdicts
from report.statistics import Estimate, kaplan_meier_median
from support.planted import TUNED, accuracies, experiment, factor, noise
from support.study_tree import Cell, Trial, tuning

SEEDS = range(1, 6)


def two_arms(steps, status="COMPLETE", seeds=(), **options):
    """Steps to the target without and with batch norm; `seeds` of the first arm have `status` and
    never got there."""
    made = []
    for arm, (kind, to_target) in enumerate(zip(("none", "batch"), steps)):
        made.append(Cell({"norm.kind": kind}, [
            Trial(s, finals=accuracies(95, s, arm), steps=4000,
                  status=status if arm == 0 and s in seeds else "COMPLETE",
                  targets={0.05: None if arm == 0 and s in seeds
                           else round(to_target * factor(s, arm))}) for s in SEEDS], **options))
    return experiment("convergence", made)


def arms(study, made):
    targets = evidence.targets_of(study(made), "convergence")
    return (targets[targets["arm"] == arm] for arm in ("none", "BN M=B"))


def test_a_diverged_trial_gives_no_accuracy_though_it_measured_one(study):
    frame = evidence.finals(study(two_arms((1000, 500), "DIVERGED", [2])), "convergence")
    plain = evidence.accuracy(frame[frame["arm"] == "none"])
    assert list(plain.index) == [1, 3, 4, 5]
    assert evidence.difference(evidence.accuracy(frame[frame["arm"] == "BN M=B"]), plain).n == 4
    assert "1 of 5 trials diverged" in evidence.flags(frame)[0]


def test_ratio_of_times(study):
    estimate, remark = evidence.time_ratio(*arms(study, two_arms((1000, 500))))
    assert estimate.low < 2 < estimate.high and estimate.n == 5 and remark == ""


def test_some_censored_trials_bound_the_ratio_from_below(study):
    estimate, remark = evidence.time_ratio(*arms(study, two_arms((1000, 500), seeds=[1, 4])))
    assert estimate.high == math.inf and "2 of 5" in remark
    # Two budgets of 4,000 steps stand for times that are longer.
    assert estimate.value == pytest.approx(2 * 4 ** (2 / 5), rel=0.05)


def test_a_diverged_trial_is_no_early_end(study):
    plain, norm = arms(study, two_arms((1000, 500), "DIVERGED", [1, 4]))
    estimate, _ = evidence.time_ratio(plain, norm)
    assert estimate.n == 3 and 1.9 < estimate.value < 2.1
    assert evidence.median_to_target(plain).value == pytest.approx(1000, rel=0.05)
    plain, _ = arms(study, two_arms((1000, 500), "DIVERGED", [1, 2, 4]))
    assert evidence.median_to_target(plain).value == math.inf


@pytest.mark.parametrize("seeds, diverged, low", [
    (6, 0, 8), (5, 0, None), (6, 1, None), (6, 5, None), (6, 6, None)])
def test_ratios_that_are_all_the_same_bound_nothing_unless_they_are_enough(
        study, seeds, diverged, low):
    """Of trials censored at one budget; a trial that diverged has none."""
    def cell(kind, to_target):
        return Cell({"norm.kind": kind}, [
            Trial(s, steps=4000, targets={0.05: to_target},
                  status="DIVERGED" if s <= diverged and to_target is None else "COMPLETE")
            for s in range(1, seeds + 1)], TUNED)
    made = experiment("convergence", [cell("none", None), cell("batch", 500)])
    estimate, remark = evidence.time_ratio(*arms(study, made))
    if diverged == seeds:
        assert estimate is None and "diverged" in remark
    else:
        assert (estimate.low, estimate.n, estimate.value) == (low, seeds - diverged, 8)
    verdict = claims_norm.steps(study(made))
    assert verdict.verdict == ("supported" if low else "undecided")
    assert bool(verdict.reason) == (low is None)


def test_the_first_goal_is_the_largest_error(study):
    made = two_arms((1000, 500))
    for cell in made.cells:
        for trial in cell.trials:
            trial.targets[0.03] = 3000
    estimate, _ = evidence.time_ratio(*arms(study, made))
    assert estimate.value == pytest.approx(2, rel=0.05)
    assert set(evidence.targets_of(study(made), "convergence")["error"]) == {0.05}


def test_an_end_at_the_bound_itself_decides_nothing():
    touching = Estimate(0.5, 0.0, 1.0, 5)
    assert verdicts.at_least(touching, 0.0, "", "").outcome == verdicts.HOLDS
    for bound in (0.0, 1.0):
        part = verdicts.more_than(touching, bound, "", "more")
        assert part.outcome == verdicts.OPEN and "neither shows nor excludes: more" in part.reason
    assert verdicts.more_than(touching, -0.1, "", "").outcome == verdicts.HOLDS


def test_a_mixture_of_cells_is_no_arm(study):
    made = two_arms((1000, 500))
    made.cells = [dataclasses.replace(cell, settings={**cell.settings, "model.hidden": hidden})
                  for cell in made.cells for hidden in ("128", "128,128")]
    plain, norm = arms(study, made)
    with pytest.raises(evidence.UnknownAxis, match="also by model.hidden$"):
        evidence.time_ratio(plain, norm)
    with pytest.raises(evidence.UnknownAxis, match="also by model.hidden$"):
        evidence.accuracy(evidence.finals(study(made), "convergence").query("arm == 'none'"))


def test_infinite_budgets_are_the_last_to_be_censored():
    found = kaplan_meier_median([10, 20, 30, math.inf], [1, 1, 1, 0])
    assert found.value == 25


def test_a_fast_arm_that_is_censored_bounds_the_ratio_from_above(study):
    plain, norm = arms(study, two_arms((1000, 500), seeds=[1]))
    estimate, remark = evidence.time_ratio(norm, plain)
    assert remark == "(at most: 1 of 5 are censored)" and estimate.n == 5
    assert estimate.low == 0 and 0.5 < estimate.high < 1
    # A budget of 4,000 steps stands for a time that is longer.
    assert estimate.value == pytest.approx(0.5 / 4 ** (1 / 5), rel=0.05)


def test_arms_that_are_both_censored_bound_nothing(study):
    made = two_arms((1000, 500), seeds=[1, 2])
    made.cells[1].trials[4].targets[0.05] = None
    estimate, remark = evidence.time_ratio(*arms(study, made))
    assert estimate is None and "2 and 1 of 5 trials" in remark


def test_a_fast_arm_that_diverged_bounds_nothing(study):
    plain, norm = arms(study, two_arms((1000, 500), "DIVERGED", list(SEEDS)))
    estimate, remark = evidence.time_ratio(norm, plain)
    assert estimate is None and "diverged" in remark


def test_a_constant_upper_bound_needs_as_many_trials_as_a_lower_one(study):
    for seeds, high in ((6, 0.125), (5, None)):
        cells = [Cell({"norm.kind": kind}, [Trial(s, steps=4000, targets={0.05: steps})
                                            for s in range(1, seeds + 1)])
                 for kind, steps in (("none", 500), ("batch", None))]
        estimate, _ = evidence.time_ratio(*arms(study, experiment("convergence", cells)))
        assert (estimate.low, estimate.high) == (None if high is None else 0, high)


def test_flags_name_edges_and_fallbacks(study):
    chosen = tuning({0.1: 0.97, 0.2: 0.98}, chosen=0.2, edge="high", fallback=True)
    frame = evidence.finals(study(two_arms((1000, 500), tuning=chosen)), "convergence")
    told = evidence.flags(frame)
    assert "high edge" in told[0] and "no rate reached the target" in told[1] and len(told) == 4


def neighboured(criterion, gain, steps=1.0, lost=()):
    """A cell whose rate 0.1 has one neighbour: better by so many points, in so many times the
    steps; seeds of the neighbour that never got to the target are `lost`."""
    def trials(stage, arm, lr, percent, to_target, seeds=()):
        return [Trial(s, stage, lr, finals={"val_running_loss": 1 - (percent + noise(s, arm)) / 100,
                                            **accuracies(90, s, arm, val_running=percent)},
                      steps=4000,
                      targets={0.05: None if s in seeds else round(to_target * factor(s, arm))})
                for s in SEEDS]
    return experiment("one", [Cell({"norm.kind": "batch"}, [
        *trials("final", 0, 0.1, 95, 1000),
        *trials("near", 1, 0.2, 95 + gain, 1000 * steps, lost)],
        tuning({0.1: 0.95, 0.2: 0.94}, 0.1, criterion=criterion))])


@pytest.mark.parametrize("criterion, values, told", [
    ("val_accuracy", {"gain": 1.0}, "0.2 is better by 1.00 pt [0."),
    ("val_accuracy", {"gain": 0.0}, ""), ("val_accuracy", {"gain": -1.0}, ""),
    ("val_loss", {"gain": 1.0}, "0.2 is better by 0.01"), ("val_loss", {"gain": -1.0}, ""),
    ("steps_to_target", {"gain": -1.0, "steps": 0.5}, "times fewer steps"),
    ("steps_to_target", {"gain": 1.0, "steps": 2.0}, ""),
    ("steps_to_target", {"gain": 1.0, "steps": 0.5, "lost": [1]}, ""),
    ("of another version", {"gain": 1.0}, "")])
def test_a_better_neighbour_is_a_flag(study, criterion, values, told):
    frame = evidence.finals(study(neighboured(criterion, **values)), "one")
    assert len(frame) == 5, "neighbours are no final trials"
    flags = evidence.flags(frame)
    assert len(flags) == (1 if told else 0)
    assert all("the neighbouring rate" in flag and told in flag for flag in flags)


def test_fresh_values_are_of_the_criterion(study):
    for criterion, first in (("val_accuracy", 0.9497), ("val_loss", 0.0503),
                             ("steps_to_target", 970.0)):
        values = evidence.fresh_values(study(neighboured(criterion, 1.0, 0.5, [2])))
        assert {key[2]: len(found) for key, found in values.items()} == {0.1: 5, 0.2: 5}
        near = values["one", "norm.kind=batch", 0.2]
        assert math.isnan(near[1]) == (criterion == "steps_to_target")
        assert values["one", "norm.kind=batch", 0.1][0] == pytest.approx(first, rel=0.05)
