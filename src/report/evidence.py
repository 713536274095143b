"""Picks the numbers behind a verdict out of the results: final trials, paired by seed."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from report.results import Results
from report.statistics import Estimate, bootstrap_interval, kaplan_meier_median, mean_interval
from report.verdicts import Part, more_than, show

TEST = "final_test_running_accuracy"
STEADY = 1.25  # quotient of quartiles of a cell's step times up to which times are compared
LONGEST_CELL = 80  # characters of a cell's name in a flag
POINTS = 100.0  # accuracies are fractions, effects percentage points


def finals(results: Results, experiment: str) -> pd.DataFrame:
    return results.experiment(experiment).finals


def by_seed(frame: pd.DataFrame, column: str, scale: float = 1.0) -> pd.Series:
    """One number per seed. Diverged trials are left out, whatever they measured before (`flags`
    names them)."""
    if column not in frame or frame.empty:
        return pd.Series(dtype=float)
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
    """How many times as much `column` of targets the slow arm needs, and a remark. Where it is
    censored in all or some pairs, its budget stands for it and the ratio is at least what is
    given, so its interval has no upper end. None where the fast arm is censored: nothing pairs."""
    slow, fast = slow.set_index("seed"), fast.set_index("seed")
    seeds = slow.index.intersection(fast.index)
    slow, fast = slow.loc[seeds], fast.loc[seeds]
    if not len(seeds):
        return None, "no seed has both arms"
    if not fast["reached"].all():
        return None, f"{(~fast['reached']).sum()} of {len(seeds)} trials never reached the target"
    censored = int((~slow["reached"]).sum())
    if censored and column != "steps":
        return None, (f"{censored} of {len(seeds)} of the slower arm's trials never reached the "
                      "target")
    reached = slow[column].where(slow["reached"], slow["budget"])
    estimate = ratio(reached, fast[column])
    if not censored:
        return estimate, ""
    low = estimate.low if estimate.low is not None else _shared_bound(reached, fast[column])
    return (Estimate(estimate.value, low, math.inf, estimate.n),
            f"at least: {censored} of {len(seeds)} are censored")


def _shared_bound(slow: pd.Series, fast: pd.Series) -> float | None:
    """All ratios are equal, as when all are censored at one budget: that is a bound if seeds are
    several."""
    return float((slow / fast).min()) if len(slow) > 1 else None


def median_steps(targets: pd.DataFrame) -> Estimate:
    times = targets["steps"].where(targets["reached"], targets["budget"])
    return kaplan_meier_median(times, targets["reached"])


def targets_of(results: Results, experiment: str) -> pd.DataFrame:
    """Final trials' targets at the experiment's largest error: its first goal. A diverged trial is
    censored at no finite budget: more steps would not have helped it."""
    of = results.experiment(experiment)
    targets = of.targets[of.targets["stage"] == "final"]
    if targets.empty:
        return targets
    diverged = of.trials.loc[of.trials["status"] == "DIVERGED", "id"]
    budget = targets["budget"].astype(float).mask(targets["id"].isin(diverged), math.inf)
    return targets.assign(budget=budget)[targets["error"] == targets["error"].max()]


def of_trials(table: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """A measured table's rows of these trials, with their seed, B, M, arm and cell."""
    return table.merge(trials[["id", "seed", "B", "M", "arm", "cell"]], on="id")


def flags(frame: pd.DataFrame) -> list[str]:
    """What a reader must know of the trials used: rates at the edge of their grid, rates chosen
    for want of a better, and trials that diverged."""
    found = []
    for cell, trials in frame.groupby("cell", sort=False):
        cell = cell if len(cell) <= LONGEST_CELL else cell[:LONGEST_CELL - 1] + "…"
        edge = trials["edge"].iloc[0]
        if edge in ("low", "high"):
            found.append(f"learning rate {trials['lr'].iloc[0]:g} is at the grid's "
                         f"{edge} edge: {cell}")
        if bool(trials["fallback"].iloc[0]):
            found.append(f"no rate reached the target, chosen by accuracy: {cell}")
        diverged = int((trials["status"] == "DIVERGED").sum())
        if diverged:
            found.append(f"{diverged} of {len(trials)} trials diverged and are left out: {cell}")
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


def settings(frame: pd.DataFrame, key: str) -> pd.Series:
    """The value of an axis that is no option of the trainer."""
    return frame["settings"].map(lambda values: values.get(key))


def depth(frame: pd.DataFrame) -> pd.Series:
    """Hidden layers of each trial."""
    return frame["model.hidden"].map(lambda sizes: len(str(sizes).split(",")))


def per_seed(frame: pd.DataFrame, function: Callable[[pd.DataFrame], float]) -> pd.Series:
    """function of each seed's rows."""
    return pd.Series({seed: function(rows) for seed, rows in frame.groupby("seed")}, dtype=float)

