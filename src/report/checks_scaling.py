"""Checks of what the batch size does: three regimes (S9), noise scale (S10), rules for the rate
(S11)."""

import math

import numpy as np
import pandas as pd

from report.evidence import (accuracy, by_seed, difference, finals, flags, median_to_target,
                             of_arm, of_trials, quotient, refuse_unknown_axes, targets_of)
from report.expectations import TUNED_ON, VALIDATION, AtLeast, expects
from report.results import Results
from report.statistics import Estimate, Hyperbola, hyperbola, mean_interval, power_law
from report.verdicts import (CHECK_WORDS, FAILS, HOLDS, OPEN, Part, Verdict, at_least, judge,
                             missing, number, show, within)

WHOLE_SET = 32_768  # the largest B that counts as "up to the whole training set"
REFERENCE_BATCH = 128
QUARTERS = 4
RULE_LOSS = 0.2  # points of accuracy that a rule may lose


def s9(results: Results) -> Verdict:
    trials = finals(results, "steps_to_target")
    targets = targets_of(results, "steps_to_target")
    parts = (_regimes(targets, "none") if len(targets) else
             [missing("no finished trials of 'steps_to_target'")])
    for arm in sorted(set(targets["arm"]) - {"none"}):
        parts += [Part(HOLDS, part.text) for part in _regimes(targets, arm) if part.text]
    return judge(
        CHECK_WORDS, "S9", "Three regimes of the batch size",
        "Without batch norm steps to the target fall as 1/B over the first three doublings (slope "
        "−1.0 ± 0.2), hardly at all over the last two up to the whole training set (at least "
        "−0.3), and a hyperbola fits (R² at least 0.9).", parts, figure="fig-steps",
        experiment="steps_to_target", unit="log₂ per log₂", flags=flags(trials))


def _regimes(targets: pd.DataFrame, arm: str) -> list[Part]:
    targets = targets[targets["arm"] == arm]
    sizes = sorted(int(b) for b in targets["B"].unique())
    if len(sizes) < 3 or sizes[-1] < 8 * sizes[0]:
        return [missing(f"{arm}: B = {', '.join(map(str, sizes))}, at least 3 sizes over three "
                        "doublings are needed")]
    first = [b for b in sizes if b <= min(s for s in sizes if s >= 8 * sizes[0])]
    last = [b for b in sizes if b >= max(s for s in sizes if 4 * s <= sizes[-1])]
    parts = [_slope(targets, arm, first, -1.2, -0.8, "a slope of −1.0 ± 0.2")]
    tail = _slope(targets, arm, last, -0.3, math.inf, "a slope of at least −0.3")
    if sizes[-1] < WHOLE_SET and tail.estimate is not None:
        tail = Part(OPEN, tail.text, tail.estimate,
                    f"the largest B is {sizes[-1]:,}, short of the whole training set")
    parts.append(tail)
    fit = fitted_hyperbola(targets)
    if fit is None:
        return [*parts, missing(f"{arm}: no hyperbola fits")]
    text = (f"{arm}: hyperbola with R² {fit.r2:.3f}, critical batch "
            f"{show(fit.critical_batch)}")
    beyond = [f"{b:,}" for b, median in _medians(targets).items() if math.isinf(median)]
    if beyond:
        text += f", without B = {' and '.join(beyond)}, whose median is censored"
    good = fit.r2 >= 0.9
    return [*parts, Part(HOLDS if good else FAILS, text, None,
                         "" if good else f"the hyperbola's R² is {fit.r2:.2f}")]


def _slope(targets: pd.DataFrame, arm: str, sizes: list[int], low: float, high: float,
           what: str) -> Part:
    name = f"{arm}, B = {sizes[0]:,} to {sizes[-1]:,}"
    rows = targets[targets["B"].isin(sizes)]
    censored = sorted(int(b) for b in rows.loc[~rows["reached"], "B"].unique())
    if censored:
        return missing(f"{name}: trials at B = {', '.join(map(str, censored))} never reached the "
                       "target")
    # A B's tuned rate is common to its seeds, so what is independent are the batch sizes.
    means = {b: geometric(by_seed(of_b, "steps")).value for b, of_b in rows.groupby("B")}
    fit = power_law(list(means), list(means.values()))
    if fit is None:
        return missing(f"{name}: one batch size")
    return within(fit.slope, low, high, f"{name}: slope {show(fit.slope)}", what)


def fitted_hyperbola(targets: pd.DataFrame) -> Hyperbola | None:
    """To the Kaplan–Meier medians of one arm, so that censored trials count."""
    medians = _medians(targets)
    return hyperbola(list(medians), list(medians.values()))


def _medians(targets: pd.DataFrame) -> dict[int, float]:
    """By batch size; infinite where more than half are censored."""
    found = {}
    for b, rows in targets.groupby("B"):
        refuse_unknown_axes(rows)
        found[int(b)] = median_to_target(rows).value
    return found


def noise_scales(results: Results, arm: str) -> pd.DataFrame:
    """Per trial of 'noise_scale': the mean over the run's quarters, the first and the last. Within
    a quarter noise and gradient are averaged apart, as a quotient of noisy numbers is biased; not
    over the run, whose first gradients outweigh all others. A quarter whose gradient is lost in
    its noise makes the trial's numbers NaN."""
    trials = finals(results, "noise_scale")
    rows = of_trials(results.experiment("noise_scale").noise_scale, trials)
    rows, found = rows[rows["arm"] == arm], []
    refuse_unknown_axes(rows)
    for (_, seed), run in rows.groupby(["id", "seed"]):
        run = run.sort_values("step")
        quarter = np.arange(len(run)) * QUARTERS // len(run)
        mean = run[["noise", "gradient_norm2"]].groupby(quarter).mean()
        scale = (mean["noise"] / mean["gradient_norm2"]).where((mean > 0).all(axis=1))
        found.append({"seed": seed, "average": scale.mean(skipna=False), "first": scale.iloc[0],
                      "last": scale.iloc[-1]})
    return pd.DataFrame(found, columns=["seed", "average", "first", "last"])


def geometric(values: pd.Series) -> Estimate:
    """The geometric mean. One lost trial leaves none: dropping it would bias the rest."""
    if values.isna().any() or values.empty:
        return Estimate(math.nan, None, None, 0)
    return mean_interval(np.log(values)).mapped(math.exp)


@expects(noise_scale={"data.name": "mnist"})
def s10(results: Results) -> Verdict:
    frame = noise_scales(results, "none")
    scaled = finals(results, "noise_scale")
    plain = of_arm(finals(results, "steps_to_target"), "none")
    if frame.empty:
        parts = [missing("no noise_scale.csv of a net without batch norm")]
    else:
        average, growth = geometric(frame["average"]), geometric(frame["last"] / frame["first"])
        parts = [within(average, 300, 3000, f"average noise scale: {show(average, 'samples')}",
                        "an average of 300 to 3,000 samples"),
                 at_least(growth, 5, f"last over first quarter: {show(growth, 'times')}",
                          "a growth of at least 5 times"),
                 _against_critical(results, average, scaled, plain)]
    return judge(
        CHECK_WORDS, "S10", "Gradient noise scale",
        "Without batch norm on MNIST its average over the run is 300 to 3,000 samples (printed: "
        "about 900), it grows at least 5 times, and it agrees with the critical batch of S9 within "
        "a factor of 5.", parts, figure="fig-noise-scale", experiment="noise_scale", unit="samples",
        flags=flags(scaled) + flags(plain))


def _against_critical(results: Results, average: Estimate, scaled: pd.DataFrame,
                      plain: pd.DataFrame) -> Part:
    """`scaled`: the trials of the noise scale; `plain`: of the critical batch."""
    targets = of_arm(targets_of(results, "steps_to_target"), "none")
    fit = fitted_hyperbola(targets) if len(targets) else None
    if fit is None:
        return missing("no critical batch: 'steps_to_target' without batch norm is not there")
    for key in ("model.hidden", "train.optimizer", "train.momentum", "data.name"):
        found = [sorted(map(str, of[key].unique())) for of in (scaled, plain)]
        if found[0] != found[1]:
            return missing("'noise_scale' and 'steps_to_target' are of different trainings: "
                           f"{key} is {' and '.join(found[0])} and {' and '.join(found[1])}")
    times = quotient(fit.critical_batch, average)
    return within(times, 1 / 5, 5, f"critical batch over noise scale: {show(times, 'times')}",
                  "agreement within a factor of 5")


@expects(b_by_m={TUNED_ON: VALIDATION}, lr_rule={
    "arm": "BN M=B", "train.lr_reference": REFERENCE_BATCH, "train.warmup_steps": AtLeast(1)})
def s11(results: Results) -> Verdict:
    tuned, ruled = finals(results, "b_by_m"), finals(results, "lr_rule")
    if tuned.empty or ruled.empty:
        parts, noted = [missing("needs finished trials of 'b_by_m' and 'lr_rule'")], []
    else:
        tuned = of_arm(tuned, "batch")
        rates = tuned.loc[tuned["B"] == REFERENCE_BATCH, "lr"].unique()
        # train.lr is what the rule scales; the rate itself is then another.
        ruled = ruled[np.isclose(pd.to_numeric(ruled["train.lr"]), rates[0], rtol=1e-3)
                      if len(rates) == 1 else []]
        parts, noted = _rules(tuned, ruled, rates), flags(tuned) + flags(ruled)
    return judge(
        CHECK_WORDS, "S11", "Rules for the learning rate",
        "With linear scaling and warm-up from B = 128 accuracy stays within 0.2 points of the "
        "tuned one up to some batch B*, and fails beyond it; the square-root rule likewise.",
        parts, figure="fig-lr", experiment="b_by_m, lr_rule", unit="pt", flags=noted)


def _rules(tuned: pd.DataFrame, ruled: pd.DataFrame, rates: np.ndarray) -> list[Part]:
    if len(rates) != 1:
        return [missing(f"needs a rate tuned at B = {REFERENCE_BATCH}")]
    if ruled.empty:
        return [missing(f"'lr_rule' has no cell of the tuned rate {number(float(rates[0]))}")]
    return [_rule(tuned, ruled, rule) for rule in ("linear", "sqrt")]


def _rule(tuned: pd.DataFrame, ruled: pd.DataFrame, rule: str) -> Part:
    ruled = ruled[ruled["train.lr_rule"] == rule]
    sizes = [int(b) for b in sorted(ruled["B"].unique())
             if b > REFERENCE_BATCH and b in set(tuned["B"])]
    good, bad, told, first, losses = None, None, [], None, {}
    for b in sizes:
        trials = ruled[ruled["B"] == b]
        # All diverged is a loss beyond any bound.
        lost = (trials["status"] == "DIVERGED").all()
        best, found = accuracy(tuned[tuned["B"] == b]), accuracy(trials)
        loss = difference(best, found)
        diverged = set(trials.loc[trials["status"] == "DIVERGED", "seed"]) & set(best.index)
        losses[b] = pd.concat([(best - found).dropna(), pd.Series(math.inf, sorted(diverged))])
        first = first or (None if lost else loss)
        told.append(f"B = {b:,}: " + ("diverged" if lost else show(loss, "pt", sign=True)))
        if lost or (loss.low is not None and loss.low > RULE_LOSS):
            bad = bad or b
        elif (loss.high is not None and loss.high <= RULE_LOSS and bad is None
              and not diverged):
            good = b
    text = f"{rule}, tuned minus rule: " + ", ".join(told)
    if not sizes:
        return missing(f"the {rule} rule at no B above {REFERENCE_BATCH}")
    if good and bad:
        return Part(HOLDS, f"{text}; B* {show(last_batch(losses))}, between {good:,} and {bad:,}",
                    first)
    if bad == sizes[0]:
        return Part(FAILS, text, first, f"the {rule} rule fails at the first batch, {bad:,}")
    if good == sizes[-1]:
        return Part(OPEN, text, first, f"the {rule} rule holds up to the largest B, {good:,}, so "
                                       "no end is seen")
    return Part(OPEN, text, first, f"intervals of the {rule} rule reach across 0.2 points")


def last_batch(losses: dict[int, pd.Series]) -> Estimate:
    """B*, the batch up to which a rule loses no more than 0.2 points (`losses`: by batch, rising, and
    seed): where each seed's loss, which is 0 at the reference by definition, first crosses them, by
    interpolation in log B; the geometric mean over seeds. NaN if a seed's never does."""
    crossings = []
    for seed in next(iter(losses.values())).index:
        before, lost = math.log2(REFERENCE_BATCH), 0.0
        for b, of_seeds in losses.items():
            now, loss = math.log2(b), of_seeds.get(seed, math.nan)
            if loss > RULE_LOSS:
                crossings.append(before + (now - before) * (RULE_LOSS - lost) / (loss - lost))
                break
            before, lost = now, loss
        else:
            return Estimate(math.nan, None, None, 0)
    return mean_interval(crossings).mapped(lambda log: 2.0**log)
