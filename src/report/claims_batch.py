"""Claims on what the batch size does: 5 to 8, 11, and the notebook's printed table."""

import math

import numpy as np
import pandas as pd

from report.checks_scaling import geometric, noise_scales
from report.evidence import (TEST, accuracy, by_seed, difference, finals, flags, of_arm,
                             of_trials, per_seed, ratio, targets_of, unsteady, until_target)
from report.expectations import expects
from report.published import NOTEBOOK_EXPERIMENT, NOTEBOOK_TABLE
from report.results import Results
from report.statistics import Estimate, holm, line, mean_interval
from report.verdicts import (CLAIM_WORDS, FAILS, HOLDS, OPEN, Part, Verdict, judge, missing,
                             more_than, number, show, within)

SMALL = 0.2  # points: a harm below which groups count as harmless
DISAGREE = 0.1  # points between two statistics of evaluation
PLATEAU = (32, 128)  # "near 64": within a factor of 2


def _claim(id: str, title: str, claim: str, parts: list[Part], **fields) -> Verdict:
    return judge(CLAIM_WORDS, id, title, claim, parts, **fields)


@expects(m_sweep={"B": 128})
def small_groups(results: Results) -> Verdict:
    frame = finals(results, "m_sweep")
    frame = frame[frame["norm.kind"] == "batch"] if len(frame) else frame
    parts, outcome = [missing("no finished trials of 'm_sweep'")], OPEN
    if len(frame):
        parts, outcome = _harm(frame)
    return _claim("C5", "Small batches", "Small batches hurt batch norm (M alone, at B = 128).",
                  parts, figure="fig-error-m", experiment="m_sweep", unit="pt", flags=flags(frame),
                  outcome=outcome)


def _harm(frame: pd.DataFrame) -> tuple[list[Part], str]:
    sizes = sorted(int(m) for m in frame["M"].unique())
    if len(sizes) < 2:
        return [missing("needs two M at least")], OPEN
    whole = accuracy(frame[frame["M"] == sizes[-1]])
    losses = {m: difference(whole, accuracy(frame[frame["M"] == m])) for m in sizes[:-1]}
    adjusted = dict(zip(losses, holm([loss.p for loss in losses.values()])))
    hurt = [m for m, loss in losses.items() if loss.value > 0 and adjusted[m] < 0.05]
    smallest = losses[sizes[0]]
    text = (f"M = {sizes[-1]} minus smaller M: "
            + ", ".join(f"M = {m} {show(loss, 'pt', sign=True)}" for m, loss in losses.items()))
    if hurt:
        named = ", ".join(map(str, hurt))
        return [Part(HOLDS, f"hurt at M = {named} (Holm); {text}", smallest)], HOLDS
    if all(loss.high is not None and loss.high < SMALL for loss in losses.values()):
        return [Part(FAILS, text, smallest, f"at no M more than {SMALL} points are lost")], FAILS
    return [Part(OPEN, text, smallest, "no loss is significant (Holm), none can be excluded")], OPEN


def plateau(results: Results) -> Verdict:
    frame = noise_scales(results, "none")
    if frame.empty:
        parts = [missing("no noise_scale.csv of a net without batch norm")]
    elif frame["average"].isna().any():
        parts = [missing("a gradient too small against its noise to measure: more batches per "
                         "probe are needed")]
    else:
        scale = geometric(frame["average"])
        error = {b: 100 * math.sqrt(scale.value / b) for b in (64, 256)}
        parts = [within(
            scale, *PLATEAU,
            f"noise scale {show(scale, 'samples')} (from {number(frame['first'].mean())} in the "
            f"first quarter to {number(frame['last'].mean())} in the last): a gradient's error "
            f"falls from {error[64]:.0f} % of its norm at B = 64 to {error[256]:.0f} % at 256",
            f"a plateau near 64 (noise scale {PLATEAU[0]} to {PLATEAU[1]})")]
    return _claim("C6", "Better gradients up to 64",
                  "Larger batches estimate gradients better, up to a plateau near 64.", parts,
                  figure="fig-noise-scale", experiment="noise_scale", unit="samples",
                  flags=flags(finals(results, "noise_scale")))


def memory(results: Results) -> Verdict:
    return _cost(results, "C7a", "Memory", "Batch norm costs memory.", "cost.peak_tensor_bytes",
                 "peak memory")


def time(results: Results) -> Verdict:
    return _cost(results, "C7b", "Time per step", "Batch norm costs time.", "cost.step_s",
                 "time of a step")


def _cost(results: Results, id: str, title: str, claim: str, column: str, what: str) -> Verdict:
    frame = finals(results, "cost")
    parts = [missing("no finished trials of 'cost'")] if frame.empty else []
    # The batch of 128 first: it is the one whose interval stands in the table.
    for b in sorted(frame["B"].unique(), key=lambda b: (b != 128, b)) if len(frame) else []:
        trials = frame[frame["B"] == b]
        norm, plain = (by_seed(of_arm(trials, kind), column) for kind in ("batch", "none"))
        estimate = ratio(norm, plain)
        text = f"{what} with over without at B = {int(b)}: {show(estimate, 'times')}"
        # What takes the same bytes on every seed is exact, not undecided.
        if estimate.low is None and estimate.n > 1:
            exact = HOLDS if estimate.value > 1 else FAILS
            parts.append(Part(exact, f"{what} at B = {int(b)}: {number(estimate.value)} times, the "
                                     "same on every seed", estimate, f"no more {what}"))
        else:
            parts.append(more_than(estimate, 1, text, f"more {what} at B = {int(b)}"))
    if column == "cost.step_s" and (busy := unsteady(frame)):
        parts = [Part(OPEN, part.text, part.estimate, busy) for part in parts]
    return _claim(id, title, claim, parts, figure="fig-cost", experiment="cost", unit="times",
                  flags=flags(frame))


def running_statistics(results: Results) -> Verdict:
    frame = finals(results, "evaluation")
    parts, outcome = [missing("no finished trials of 'evaluation'")], OPEN
    if len(frame):
        parts, outcome = _disagreement(frame)
    return _claim("C8", "Running statistics",
                  "Inference uses running statistics, and may disagree with training.", parts,
                  figure="fig-evaluation", experiment="evaluation", unit="pt", flags=flags(frame),
                  outcome=outcome)


def _disagreement(frame: pd.DataFrame) -> tuple[list[Part], str]:
    gaps = {}
    if "norm.cumulative" in frame:  # a plain average has no momentum
        frame = frame[frame["norm.cumulative"] == "false"]
    for (batch, momentum), trials in frame.groupby(["B", "norm.momentum"]):
        gap = accuracy(trials) - accuracy(trials, TEST.replace("running", "recomputed"))
        same = len(gap) > 1 and (gap == 0).all()
        gaps[f"B = {int(batch)}, momentum {momentum:g}"] = (
            Estimate(0.0, 0.0, 0.0, len(gap)) if same else mean_interval(gap))
    adjusted = dict(zip(gaps, holm([gap.p for gap in gaps.values()])))
    order = sorted(gaps, key=lambda cell: -abs(gaps[cell].value))
    text = "running minus recomputed at the end: " + ", ".join(
        f"{cell} {show(gaps[cell], 'pt', sign=True)}" for cell in order)
    apart = [cell for cell in order if adjusted[cell] < 0.05 and abs(gaps[cell].value) >= DISAGREE]
    first = gaps[order[0]]
    if apart:
        return [Part(HOLDS, text, gaps[apart[0]])], HOLDS
    if all(gap.low is not None and -DISAGREE <= gap.low and gap.high <= DISAGREE
           for gap in gaps.values()):
        return [Part(FAILS, text, first, f"within {DISAGREE} points everywhere")], FAILS
    return [Part(OPEN, text, first, f"no gap of {DISAGREE} points is significant (Holm)")], OPEN


def speed_for_stability(results: Results) -> Verdict:
    frame = finals(results, "batch_sizes")
    parts = [missing("no finished trials of 'batch_sizes'")]
    if len(frame):
        parts = [_speed(targets_of(results, "batch_sizes")), _stability(results, frame)]
    return _claim("C11", "Speed against stability",
                  "Batch size trades convergence speed against stability.", parts,
                  figure="fig-steps", experiment="batch_sizes", unit="log₂ per doubling",
                  flags=flags(frame))


def _slopes(table: pd.DataFrame) -> Estimate:
    """Each seed's slope of log₂ against log₂ B (the columns)."""
    batches = np.log2(table.columns.to_numpy(dtype=float))
    with np.errstate(all="ignore"):
        fits = [line(batches, np.log2(row)) for row in table.to_numpy(dtype=float)]
    return mean_interval([fit.slope.value for fit in fits if fit])


def _speed(targets: pd.DataFrame) -> Part:
    """Budgets stand for censored trials, which bound the slope from below if they are of large B,
    from above if of small B: a line turns with what is above the middle of log B."""
    what = "more epochs to the target with larger batches"
    samples = until_target(targets, "samples")
    censored = targets[~targets["reached"]]
    sizes = np.log2(targets["B"].unique().astype(float))
    large = set(np.log2(censored["B"].astype(float)) > sizes.mean())
    if targets.empty or len(large) > 1 or not np.isfinite(samples).all():
        return missing(f"{len(censored)} trials never reached the target: {what}")
    slope = _slopes(pd.DataFrame({b: by_seed(rows, "until")
                                  for b, rows in targets.assign(until=samples).groupby("B")}
                                 ).dropna())
    remark = ""
    if large and slope.low is not None:
        low, high = (slope.low, math.inf) if True in large else (-math.inf, slope.high)
        slope = Estimate(slope.value, low, high, slope.n)
        remark = (f" (at {'least' if True in large else 'most'}: {len(censored)} of {len(targets)} "
                  "are censored)")
    return more_than(slope, 0, f"samples to the target per doubling of B: 2 to the {show(slope)}"
                     f"{remark}", what)


def _stability(results: Results, frame: pd.DataFrame) -> Part:
    """The scatter of validation accuracy between neighbouring evaluations in the second half."""
    rows = of_trials(results.experiment("batch_sizes").measurements, frame)
    rows = rows[rows["epoch"] > rows.groupby("id")["epoch"].transform("max") / 2]

    def scatter(run: pd.DataFrame) -> float:
        return run.sort_values("step")["val_running_accuracy"].diff().std()

    table = pd.DataFrame({b: per_seed(run, scatter) for b, run in rows.groupby("B")}).dropna()
    slope = _slopes(table)
    falling = Estimate(-slope.value, None if slope.high is None else -slope.high,
                       None if slope.low is None else -slope.low, slope.n, slope.p)
    return more_than(falling, 0, f"its scatter per doubling of B: 2 to the {show(slope)}",
                     "less scatter with larger batches")


@expects(**{NOTEBOOK_EXPERIMENT: {"data.name": "mnist"}})
def printed_table(results: Results) -> Verdict:
    frame = finals(results, NOTEBOOK_EXPERIMENT)
    parts, outcome = [missing(f"no finished trials of '{NOTEBOOK_EXPERIMENT}'")], OPEN
    printed = ", ".join(f"{accuracy:.2f}" for accuracy, _ in NOTEBOOK_TABLE.values())
    if len(frame):
        parts, outcome = _table(frame)
    return _claim("T", "The printed table",
                  f"Larger batches are better throughout (printed: {printed} % validation accuracy "
                  f"for {', '.join(map(str, NOTEBOOK_TABLE))}).", parts, figure="fig-batch-table",
                  experiment=NOTEBOOK_EXPERIMENT, unit="pt", flags=flags(frame),
                  outcome=outcome)


def _table(frame: pd.DataFrame) -> tuple[list[Part], str]:
    """Each batch against the one before it, Holm's over the three."""
    at = {b: accuracy(frame[frame["B"] == b], "final_val_running_accuracy") for b in NOTEBOOK_TABLE}
    absent = [str(b) for b, values in at.items() if values.empty]
    if absent:
        return [missing(f"no finished trials at B = {', '.join(absent)}")], OPEN
    sizes = list(NOTEBOOK_TABLE)
    gains = {(a, b): difference(at[b], at[a]) for a, b in zip(sizes, sizes[1:])}
    overall = difference(at[sizes[-1]], at[sizes[0]])
    adjusted = holm([gain.p for gain in gains.values()])
    text = (f"B = 128 minus 16: {show(overall, 'pt', sign=True)}; validation accuracy "
            + ", ".join(f"{at[b].mean():.2f}" for b in sizes) + " %; "
            + ", ".join(f"{b} minus {a} {show(gain, 'pt', sign=True)}"
                        for (a, b), gain in gains.items()))
    better = [gain.value > 0 and p < 0.05 for gain, p in zip(gains.values(), adjusted)]
    worse = [f"{b} is worse than {a}" for ((a, b), gain), p in zip(gains.items(), adjusted)
             if gain.value < 0 and p < 0.05]
    if all(better):
        return [Part(HOLDS, text, overall)], HOLDS
    if worse or (overall.high is not None and overall.high < 0):
        reason = ", ".join(worse) or "128 is worse than 16"
        return [Part(FAILS, text, overall, reason)], FAILS
    return [Part(OPEN, text, overall, "not every step up is a significant gain (Holm), and none a "
                                      "significant loss")], OPEN
