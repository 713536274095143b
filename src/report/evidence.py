"""Picks the numbers behind a verdict out of the results: final trials, paired by seed."""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from report.results import Results
from report.statistics import (FEWEST_ALIKE, ROUNDING, Estimate, bootstrap_interval,
                               kaplan_meier_median, mean_interval)
from report.verdicts import Part, Verdict, more_than, show

TEST = "final_test_running_accuracy"
STEPS = "steps_to_target"
# Columns of what rates are chosen by; steps are not a trial's but its first target's.
CRITERIA = {"val_accuracy": "final_val_running_accuracy", "val_loss": "final_val_running_loss",
            STEPS: STEPS}
STEADY = 1.25  # quotient of quartiles of a cell's step times up to which times are compared
LONGEST_CELL = 80  # characters of a cell's name in a flag
POINTS = 100.0  # accuracies are fractions, effects percentage points


class UnknownAxis(ValueError):
    """Trials differ by more than the verdict that reads them knows of."""


def decided(verdict_of: Callable[[Results], Verdict], results: Results) -> Verdict:
    """The verdict; undecided where an experiment is not what it expects, as a study is free to
    name its experiments."""
    try:
        return verdict_of(results)
    except UnknownAxis as error:
        reason = str(error)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = (f"the experiment is not as this expects: {type(error).__name__}, "
                  f"{' '.join(str(error).split())}")
    without_data = verdict_of(results.experiment(""))
    return dataclasses.replace(without_data, reason=reason)


def refuse_unknown_axes(frame: pd.DataFrame) -> None:
    """Throws UnknownAxis where a seed has several trials: their mean would be of a mixture."""
    if frame.empty or (frame.groupby("seed")["id"].nunique() <= 1).all():
        return
    cells = [dict(re.findall(r"([a-z]+\.\w+)=(.*?)(?=,[a-z]+\.\w+=|$)", cell))
             for cell in frame["cell"].unique()]
    keys = sorted({key for cell in cells for key in cell})
    varied = [key for key in keys if len({cell.get(key) for cell in cells}) > 1]
    raise UnknownAxis(f"the experiment varies also by {', '.join(varied)}" if varied else
                      "a seed has several trials of one arm")


def finals(results: Results, experiment: str) -> pd.DataFrame:
    """Final trials; `neighbour` says of each cell by how much another rate is better."""
    of = results.experiment(experiment)
    better = better_neighbours(of)
    return of.finals.assign(neighbour=[better.get(cell, "") for cell in of.finals["cell"]])


def better_neighbours(results: Results) -> dict[str, str]:
    """Of one experiment's cells whose chosen rate's neighbours ran on the final trials' seeds: the
    first neighbour that is better by the criterion of the choice and its paired interval."""
    found: dict[str, str] = {}
    for (cell, lr), trials in results.trials[results.trials["stage"] == "near"].groupby(
            ["cell", "lr"]):
        tuned = results.tuning[results.tuning["cell"] == cell]
        criterion = tuned["criterion"].iloc[0] if len(tuned) else None
        if criterion in CRITERIA and cell not in found:
            chosen = results.finals[results.finals["cell"] == cell]
            if gain := _gain(results, criterion, trials, chosen):
                found[cell] = f"{lr:g} is better by {gain}"
    return found


def fresh_values(results: Results) -> dict[tuple[str, str, float], list[float]]:
    """What the rates of tuned cells were chosen by, as final trials and those at neighbouring rates
    have it, by (experiment, cell, rate)."""
    criteria = results.tuning.groupby(["experiment", "cell"])["criterion"].first()
    first = results.targets[results.targets["reached"]].sort_values("error", kind="stable")
    trials = results.trials[results.trials["stage"].isin(["final", "near"])
                            & (results.trials["status"] != "DIVERGED")]
    trials = trials.assign(**{STEPS: trials["id"].map(first.groupby("id")["steps"].last())})
    values: dict[tuple[str, str, float], list[float]] = {}
    for trial in trials.to_dict("records"):
        cell = trial["experiment"], trial["cell"]
        if column := CRITERIA.get(criteria.get(cell)):
            values.setdefault((*cell, trial["lr"]), []).append(trial[column])
    return values


def _gain(results: Results, criterion: str, near: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """What a neighbouring rate gains over the chosen one, "" if its interval shows no gain."""
    if criterion == STEPS:
        first = results.targets[results.targets["error"] == results.targets["error"].max()]
        slow, fast = (first[first["id"].isin(trials["id"])] for trials in (chosen, near))
        times, _ = time_ratio(slow, fast) if len(slow) and len(fast) else (None, "")
        shown = times is not None and times.low is not None and times.low > 1
        return f"{show(times)} times fewer steps" if shown else ""
    scale, unit = (-1.0, "") if criterion == "val_loss" else (POINTS, "pt")
    gain = difference(*(by_seed(trials, CRITERIA[criterion], scale) for trials in (near, chosen)))
    return show(gain, unit) if gain.low is not None and gain.low > 0 else ""


def by_seed(frame: pd.DataFrame, column: str, scale: float = 1.0) -> pd.Series:
    """One number per seed: its trial's, or the mean over that trial's rows. Diverged trials are
    left out, whatever they measured before (`flags` names them). Throws UnknownAxis."""
    if column not in frame or frame.empty:
        return pd.Series(dtype=float)
    refuse_unknown_axes(frame)
    values = pd.to_numeric(frame[column], errors="coerce") * scale
    if "status" in frame:
        values = values.where(frame["status"] != "DIVERGED")
    return values.groupby(frame["seed"]).mean().dropna().sort_index()


def accuracy(frame: pd.DataFrame, column: str = TEST) -> pd.Series:
    """In percent, by seed."""
    return by_seed(frame, column, POINTS)


def difference(first: pd.Series, second: pd.Series) -> Estimate:
    """first − second, paired by seed."""
    above, below = paired(first, second)
    return mean_interval(above - below)


def paired(first: pd.Series, second: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    both = pd.concat([first, second], axis=1, join="inner")
    return both.iloc[:, 0].to_numpy(dtype=float), both.iloc[:, 1].to_numpy(dtype=float)


def ratio(first: pd.Series, second: pd.Series) -> Estimate:
    """first / second, paired by seed: the geometric mean, by BCa on log₂ where n allows."""
    above, below = paired(first, second)
    with np.errstate(all="ignore"):
        return bootstrap_interval(np.log2(above / below)).mapped(np.exp2)


def compare(first: pd.Series, second: pd.Series, what: str, margin: float = 0.0) -> Part:
    """The condition first − second > margin, in points."""
    estimate = difference(first, second)
    return more_than(estimate, margin, f"{what}: {show(estimate, 'pt', sign=True)}", what)


def time_ratio(slow: pd.DataFrame, fast: pd.DataFrame, column: str = "steps",
               ) -> tuple[Estimate | None, str]:
    """How many times as much `column` of targets the slow arm needs, and a remark. The budget
    stands for what is censored: of the slow arm, so that the ratio is at least what is given and
    its interval has no upper end; of the fast one, so that it is at most that and the interval
    begins at 0. None where both arms are censored, which bounds nothing, or all of the censored one
    diverged, so that nothing pairs. Throws UnknownAxis."""
    refuse_unknown_axes(slow)
    refuse_unknown_axes(fast)
    slow, fast = slow.set_index("seed"), fast.set_index("seed")
    seeds = slow.index.intersection(fast.index)
    slow, fast = slow.loc[seeds], fast.loc[seeds]
    if not len(seeds):
        return None, "no seed has both arms"
    of_slow, of_fast = (int((~arm["reached"]).sum()) for arm in (slow, fast))
    if of_slow and of_fast:
        return None, (f"{of_slow} and {of_fast} of {len(seeds)} trials of the two arms never "
                      "reached the target, which bounds no ratio")
    above, below = (until_target(arm, column) for arm in (slow, fast))
    estimate = ratio(above, below)
    if not of_slow and not of_fast:
        return estimate, ""
    arm, bound = (slow, "at least") if of_slow else (fast, "at most")
    if estimate.n == 0:
        return None, f"all {len(seeds)} trials of one arm diverged, which bounds no ratio"
    remark = f"({bound}: {of_slow or of_fast} of {len(seeds)} are censored)"
    low, high = estimate.low, estimate.high
    if low is None and _all_alike(arm, above / below):
        low = high = estimate.value
    if low is None:
        return estimate, remark
    return (Estimate(estimate.value, low, math.inf, estimate.n) if of_slow else
            Estimate(estimate.value, 0.0, high, estimate.n)), remark


def until_target(targets: pd.DataFrame, column: str) -> pd.Series:
    """`column` of targets, of censored ones the budget; infinite for diverged trials."""
    return targets[column].where(targets["reached"], targets[f"{column}_budget"])


def _all_alike(arm: pd.DataFrame, ratios: pd.Series) -> bool:
    """Whether enough pairs are censored at one ratio: half of such pairs are then beyond it."""
    return bool(len(ratios) >= FEWEST_ALIKE and not arm["reached"].any()
                and np.isfinite(ratios).all() and np.ptp(ratios) <= ROUNDING * ratios.max())


def quotient(above: Estimate, below: Estimate) -> Estimate:
    """above / below, both positive. Its interval takes the ends that are furthest apart, so it
    covers at least what it states."""
    value, n = above.value / below.value, min(above.n, below.n)
    if above.low is None or below.low is None:
        return Estimate(value, None, None, n)
    return Estimate(value, above.low / below.high if below.high < math.inf else 0.0,
                    above.high / below.low if below.low > 0 else math.inf, n)


def median_to_target(targets: pd.DataFrame, column: str = "steps") -> Estimate:
    """Kaplan and Meier's; infinite where more than half did not get there."""
    return kaplan_meier_median(until_target(targets, column), targets["reached"])


def targets_of(results: Results, experiment: str) -> pd.DataFrame:
    """Final trials' targets at the experiment's largest error: its first goal."""
    targets = results.experiment(experiment).targets
    targets = targets[targets["stage"] == "final"]
    return targets[targets["error"] == targets["error"].max()]


def of_trials(table: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """A measured table's rows of these trials, with their seed, B, M, arm and cell."""
    return table.merge(trials[["id", "seed", "B", "M", "arm", "cell"]], on="id")


def flags(frame: pd.DataFrame) -> list[str]:
    """What a reader must know of the trials used (`finals`): rates at the edge of their grid, rates
    chosen for want of a better or beaten by a neighbour, and trials that diverged."""
    found = []
    for cell, trials in frame.groupby("cell", sort=False):
        cell = cell if len(cell) <= LONGEST_CELL else cell[:LONGEST_CELL - 1] + "…"
        edge = trials["edge"].iloc[0]
        if edge in ("low", "high"):
            found.append(f"learning rate {trials['lr'].iloc[0]:g} is at the grid's "
                         f"{edge} edge: {cell}")
        if bool(trials["fallback"].iloc[0]):
            found.append(f"no rate reached the target, chosen by accuracy: {cell}")
        if trials["neighbour"].iloc[0]:
            found.append(f"the neighbouring rate {trials['neighbour'].iloc[0]}: {cell}")
        diverged = int((trials["status"] == "DIVERGED").sum())
        if diverged:
            found.append(f"{diverged} of {len(trials)} trials diverged: without accuracy, and "
                         f"no target counts as reached: {cell}")
    return found


def unsteady(frame: pd.DataFrame) -> str:
    """Why times of these trials cannot be compared, if so: trials of one cell take the same
    step."""
    if frame.empty:
        return ""
    steps = frame.groupby("cell")["cost.step_s"]
    spread = (steps.quantile(0.75) / steps.quantile(0.25)).max()
    return (f"a step of one and the same cell takes up to {spread:.2f} times as long (quartiles of "
            "its seeds), so the machine had other work" if spread > STEADY else "")


def of_arm(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The trials without norm ("none"), or with statistics over the whole batch ("batch")."""
    return frame[frame["arm"] == {"none": "none", "batch": "BN M=B"}[kind]]


def settings(frame: pd.DataFrame, key: str) -> pd.Series:
    """The value of an axis that is no option of the trainer."""
    return frame["settings"].map(lambda values: values.get(key))


def depth(frame: pd.DataFrame) -> pd.Series:
    """Hidden layers of each trial."""
    return frame["model.hidden"].map(lambda sizes: len(str(sizes).split(",")))


def per_seed(frame: pd.DataFrame, function: Callable[[pd.DataFrame], float]) -> pd.Series:
    """function of each seed's rows, which are one trial's. Throws UnknownAxis."""
    refuse_unknown_axes(frame)
    return pd.Series({seed: function(rows) for seed, rows in frame.groupby("seed")}, dtype=float)

