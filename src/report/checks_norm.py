"""Checks of the noise of the statistics and of what batch norm does: S5 … S8, S12, S13."""

import math

import numpy as np
import pandas as pd

from report.evidence import (TEST, accuracy, by_seed, compare, depth, difference, finals, flags,
                             of_arm, of_trials, per_seed, quotient, ratio, refuse_unknown_axes,
                             settings)
from report.expectations import TUNED_ON, VALIDATION, AtLeast, expects
from report.results import Results
from report.statistics import Estimate, half_divergence, holm, line, mean_interval, power_law
from report.verdicts import (CHECK_WORDS, FAILS, HOLDS, OPEN, Part, Verdict, at_least, judge,
                             labelled, missing, more_than, number, show, within)

ENOUGH = (1000, 10_000)  # samples that recomputed statistics should need


def _groups(frame: pd.DataFrame, m: int) -> pd.DataFrame:
    return frame[(frame["norm.kind"] == "batch") & (frame["M"] == m)]


@expects(m_sweep={"B": 128, "model.activation": "relu"},
         m_sweep_sigmoid={"B": 128, "model.activation": "sigmoid"})
def s5(results: Results) -> Verdict:
    frame, sigmoid = finals(results, "m_sweep"), finals(results, "m_sweep_sigmoid")
    parts = _damage(results, frame) if len(frame) else [missing("no finished trials of 'm_sweep'")]
    if len(sigmoid):
        parts += labelled(_damage(results, sigmoid), "sigmoid net, ")
    else:
        parts.append(Part(HOLDS, "of the ReLU net alone, without 'm_sweep_sigmoid'"))
    return judge(
        CHECK_WORDS, "S5", "Damage by small groups",
        "At B = 128: M = 2 worse than M = 32 by at least 1 point, M = 4 worse, M = 32 and 128 "
        "within 0.2 points; layer norm flat; gradients below the last batch norm at M = 2 at "
        "most 1 % of those at M = 32 in the median, with a heavy tail; training error monotone in "
        "1/M." + (" With ReLU and with sigmoid." if len(sigmoid) else ""), parts,
        figure="fig-error-m", experiment="m_sweep, m_sweep_sigmoid", unit="pt",
        flags=flags(frame) + flags(sigmoid))


def _damage(results: Results, frame: pd.DataFrame) -> list[Part]:
    """S5 of one net."""
    at = {m: accuracy(_groups(frame, m)) for m in (2, 4, 32, 128)}
    flat = difference(at[32], at[128])
    return [_by_at_least(at[32], at[2], 1.0, "M = 32 better than M = 2 by at least 1 point"),
            compare(at[32], at[4], "M = 32 better than M = 4"),
            within(flat, -0.2, 0.2, f"M = 32 minus M = 128: {show(flat, 'pt', sign=True)}",
                   "M = 32 and M = 128 within 0.2 points"),
            _layer_norm_is_flat(frame), *_gradients(results, frame), _train_error(frame)]


def _by_at_least(first: pd.Series, second: pd.Series, margin: float, what: str) -> Part:
    estimate = difference(first, second)
    return at_least(estimate, margin, f"{what}: {show(estimate, 'pt', sign=True)}", what)


def _layer_norm_is_flat(frame: pd.DataFrame) -> Part:
    layer = frame[frame["norm.kind"] == "layer"]
    cells = [accuracy(trials) for _, trials in layer.groupby("cell")]
    if len(cells) < 2:
        return missing("layer norm at two M at least")
    values = pd.concat(cells, axis=1, join="inner")
    spread = values.max(axis=1) - values.min(axis=1)
    if len(spread) and (spread == 0).all():
        return Part(HOLDS, "layer norm is the same to the last digit at every M")
    estimate = mean_interval(spread)
    # A range is never negative, but its interval may reach below.
    return within(estimate, -math.inf, 0.2, f"range of layer norm over M: {show(estimate, 'pt')}",
                  "layer norm flat within 0.2 points")


def _gradients(results: Results, frame: pd.DataFrame) -> list[Part]:
    layers = of_trials(results.layers, frame)
    layers = layers[layers["type"] == "BatchNorm1d"]
    if layers.empty or not {2, 32} <= set(layers["M"]):
        return [missing("no gradients below the last batch norm at M = 2 and 32 (measure.layers)")]
    layers = layers[layers["step"] == layers.groupby("id")["step"].transform("max")]
    last = layers[layers["layer"] == layers["layer"].max()]
    few, many = last[last["M"] == 2], last[last["M"] == 32]
    share = ratio(by_seed(few, "group_gradient_median"), by_seed(many, "group_gradient_median"))
    unit = ratio(by_seed(few, "gain_median"), by_seed(many, "gain_median"))
    tail = ratio(by_seed(few, "group_gradient_p99"), by_seed(few, "group_gradient_median"))
    return [within(share, 0, 0.01, f"median gradient at M = 2 over M = 32: {show(share)}",
                   "a median gradient of at most 1 %"),
            at_least(tail, 10, f"99 % over median at M = 2: {show(tail, 'times')}",
                     "a tail of 10 times the median"),
            Part(HOLDS, f"median gain of single units at M = 2 over M = 32: {show(unit)}")]


def _train_error(frame: pd.DataFrame) -> Part:
    """Neighbouring M: no significant (Holm) rise of the training error with M, and the means
    fall."""
    sizes = sorted(int(m) for m in frame.loc[frame["norm.kind"] == "batch", "M"].unique())
    column = "final_train_running_accuracy"
    at = {m: accuracy(_groups(frame, m), column) for m in sizes}
    steps = [difference(at[larger], at[smaller]) for smaller, larger in zip(sizes, sizes[1:])]
    if not steps or any(math.isnan(step.value) for step in steps):
        return missing("training accuracy at two M at least")
    what = "training error monotone in 1/M"
    adjusted = holm([step.p for step in steps])
    worst = min(range(len(steps)), key=lambda i: steps[i].value)
    text = (f"training accuracy by M ({', '.join(map(str, sizes))}): "
            + ", ".join(f"{at[m].mean():.2f}" for m in sizes) + " %")
    if all(step.value >= 0 for step in steps):
        return Part(HOLDS, text)
    reverse = (f"from M = {sizes[worst]} to {sizes[worst + 1]} it rises: "
               f"{show(steps[worst], 'pt of accuracy', sign=True)}")
    wrong = any(step.value < 0 and p < 0.05 for step, p in zip(steps, adjusted))
    return Part(FAILS if wrong else OPEN, text, None,
                f"not so: {what}; {reverse}" if wrong else f"not shown: {what}; {reverse}")


def s6(results: Results) -> Verdict:
    law = of_trials(results.experiment("noise_law").noise_law, finals(results, "noise_law"))
    parts = _noise_law(law) if len(law) else [missing("no noise_law.csv of 'noise_law' "
                                                           "(measure.noise_law)")]
    return judge(
        CHECK_WORDS, "S6", "Law of the statistics' noise",
        "On a frozen net the log–log slope of the variance of the batch mean is −1.00 ± 0.05 and "
        "its ratio to theory within 0.9 and 1.1; the variance of the batch variance, whose law "
        "with the measured kurtosis is no power of M, departs from it by a slope of at most "
        "0.05.", parts,
        figure="fig-noise-law", experiment="noise_law")


def _noise_law(law: pd.DataFrame) -> list[Part]:
    law = law.assign(mean_ratio=law["mean_noise"] / law["mean_noise_theory"],
                     variance_ratio=law["variance_noise"] / law["variance_noise_theory"])
    mean, variance = _slope_over_nets(law, "mean_noise"), _slope_over_nets(law, "variance_ratio")
    return [within(mean, -1.05, -0.95, f"slope of the mean's: {show(mean)}",
                   "a slope of −1.00 ± 0.05 for the mean's"),
            _ratio_part("mean", law.groupby("m")["mean_ratio"].mean()),
            within(variance, -0.05, 0.05, f"slope of the variance's over theory: {show(variance)}",
                   "a slope within 0.05 of theory's for the variance's"),
            _ratio_part("variance", law.groupby("m")["variance_ratio"].mean())]


def _slope_over_nets(law: pd.DataFrame, column: str) -> Estimate:
    """A net's layers share its samples, so nets are what is independent: the mean over nets, or of
    one net the interval of its own fit."""
    means = law.groupby(["id", "m"])[column].mean()
    fits = [power_law(net.index.get_level_values("m"), net) for _, net in means.groupby("id")]
    if len(fits) == 1 and fits[0]:
        return fits[0].slope
    return mean_interval([fit.slope.value for fit in fits if fit])


def _ratio_part(kind: str, means: pd.Series) -> Part:
    text = f"the {kind}'s over theory: {number(means.min())} to {number(means.max())} over M"
    if 0.9 <= means.min() and means.max() <= 1.1:
        return Part(HOLDS, text)
    worst = (means - 1).abs().idxmax()
    return Part(FAILS, text, None, f"the {kind}'s ratio at M = {int(worst)} is "
                                   f"{number(means[worst])}, outside 0.9 to 1.1")


@expects(ema={"B": 2048, "norm.momentum": 0.1, "train.schedule": "step"})
def s7(results: Results) -> Verdict:
    frame = finals(results, "ema")
    parts = [missing("no finished trials of 'ema'")] if frame.empty else _ema(results, frame)
    return judge(
        CHECK_WORDS, "S7", "Unreliable running averages",
        "At B = 2,048 and a high rate, the validation accuracy of running statistics (momentum "
        "0.1) scatters at least twice as much as that of recomputed ones before the decay of the "
        "rate, differs by at most 0.1 points after it, and 1,000 to 10,000 samples come within "
        "0.05 points of the largest number.",
        parts, figure="fig-evaluation", experiment="ema", unit="times", flags=flags(frame))


def _ema(results: Results, frame: pd.DataFrame) -> list[Part]:
    frame = frame.assign(population=pd.to_numeric(settings(frame, "measure.population")))
    # The stability edge is near the highest rate at which no trial diverges.
    diverged = frame.loc[frame["status"] == "DIVERGED", "lr"]
    stable = frame[~frame["lr"].isin(diverged)]
    if stable.empty:
        return [missing("trials diverge at every rate")]
    frame = stable[stable["lr"] == stable["lr"].max()]
    oracle = frame[frame["population"] == frame["population"].max()]
    decay = float(str(oracle["train.milestones"].iloc[0]).split(",")[0])
    rows = of_trials(results.experiment("ema").measurements, oracle)
    rows = rows[rows["val_recomputed_accuracy"].notna()]
    # From half-way to the decay, when accuracy has stopped climbing: a trend is no scatter.
    before = rows[(rows["epoch"] > decay / 2) & (rows["epoch"] <= decay)]
    after = rows[rows["epoch"] > decay]
    running, exact = "val_running_accuracy", "val_recomputed_accuracy"
    scatter = ratio(per_seed(before, lambda r: r[running].std()),
                    per_seed(before, lambda r: r[exact].std()))
    apart = difference(accuracy(after, running), accuracy(after, exact))
    parts = [at_least(scatter, 2, f"scatter before the decay, running over recomputed: "
                      f"{show(scatter, 'times')}", "at least twice the scatter"),
             within(apart, -0.1, 0.1, f"running minus recomputed after it: "
                    f"{show(apart, 'pt', sign=True)}", "within 0.1 points after the decay")]
    best, most = accuracy(oracle, f"final_{exact}"), f"{int(frame['population'].max()):,}"
    fewer = frame[frame["population"].between(*ENOUGH)]
    if fewer.empty or fewer["population"].max() == frame["population"].max():
        parts.append(missing("recomputed statistics of {:,} to {:,} samples, and of more".format(
            *ENOUGH)))
    for population, trials in fewer.groupby("population"):
        off = accuracy(trials, f"final_{exact}") - best
        what = f"{int(population):,} samples"
        if len(off) > 1 and (off == 0).all():
            parts.append(Part(HOLDS, f"{what}: the same accuracy as {most}"))
            continue
        estimate = mean_interval(off)
        parts.append(within(estimate, -0.05, 0.05,
                            f"{what} minus {most}: {show(estimate, 'pt', sign=True)}",
                            f"{what} within 0.05 points of {most}"))
    return parts


@expects(m_sweep={"B": 128})
def s8(results: Results) -> Verdict:
    frame = finals(results, "m_sweep")
    frame = frame[frame["norm.kind"] == "batch"] if len(frame) else frame
    parts = [missing("no finished trials of 'm_sweep'")] if frame.empty else _repair(frame)
    return judge(
        CHECK_WORDS, "S8", "Repair by evaluation alone",
        "At B = 128 and M = 4 the test error under batch or recomputed statistics differs from "
        "that under running ones; the gap between batch and recomputed statistics shrinks with M "
        "and is at most 0.1 points from M = 32 on.", parts,
        figure="fig-error-m", experiment="m_sweep", unit="pt",
        flags=flags(frame))


def _repair(frame: pd.DataFrame) -> list[Part]:
    four = _groups(frame, 4)
    other = {name: difference(accuracy(four, f"final_test_{name}_accuracy"), accuracy(four))
             for name in ("batch", "recomputed")}
    adjusted = holm([estimate.p for estimate in other.values()])
    text = "at M = 4 " + ", ".join(f"{name} minus running: {show(estimate, 'pt', sign=True)}"
                                   for name, estimate in other.items())
    first = next(iter(other.values()))
    changes = (Part(HOLDS, text, first) if min(adjusted) < 0.05 else
               Part(OPEN, text, first, f"no change shown at M = 4 (Holm p = {min(adjusted):.2g})"))
    parts, gaps = [changes], {}
    for m in sorted(int(m) for m in frame["M"].unique()):
        trials = _groups(frame, m)
        gaps[m] = (accuracy(trials, "final_test_batch_accuracy")
                   - accuracy(trials, "final_test_recomputed_accuracy"))
    table = pd.DataFrame(gaps).dropna().abs()
    slopes = [line(np.log2(table.columns.to_numpy(dtype=float)), row).slope.value
              for row in table.to_numpy()] if table.shape[1] > 1 else []
    slope = mean_interval(slopes)
    parts.append(more_than(_negated(slope), 0, f"the gap's change per doubling of M: "
                           f"{show(slope, 'pt', sign=True)}", "a gap that shrinks with M"))
    large = [m for m in gaps if m >= 32]
    if not large:
        parts.append(missing("no M of 32 or more"))
    for m in large:
        estimate = mean_interval(gaps[m])
        if len(gaps[m]) > 1 and (gaps[m] == 0).all():
            parts.append(Part(HOLDS, f"no gap at M = {m}"))
            continue
        parts.append(within(estimate, -0.1, 0.1, f"batch minus recomputed at M = {m}: "
                            f"{show(estimate, 'pt', sign=True)}", f"at most 0.1 points at M = {m}"))
    return parts


def _negated(estimate: Estimate) -> Estimate:
    if estimate.low is None:
        return Estimate(-estimate.value, None, None, estimate.n)
    return Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.n, estimate.p)


@expects(depth={"B": AtLeast(128), "model.activation": "relu", TUNED_ON: VALIDATION})
def s12(results: Results) -> Verdict:
    frame = finals(results, "depth")
    if frame.empty:
        parts = [missing("no finished trials of 'depth'")]
    else:
        frame = frame[frame["model.init"] == "he"].assign(depth=depth)
        parts = [*_growth(results, frame), _deepest(frame)]
    return judge(
        CHECK_WORDS, "S12", "Gradients in deep nets",
        "ReLU, He's weights, M = B of 128 or more: at the start the squared gradient grows per "
        "layer by a factor of 1.2 to 1.7 with batch norm, evenly (R² at least 0.95), and by 1 (0.8 "
        "to 1.2) without; the net of 32 layers with batch norm is not better than that of 4 by "
        "more than 0.1 points.", parts, figure="fig-depth", experiment="depth", unit="per layer",
        flags=flags(frame))


def _growth(results: Results, frame: pd.DataFrame) -> list[Part]:
    deepest = frame[frame["depth"] == frame["depth"].max()]
    rows = of_trials(results.experiment("depth").layers, deepest)
    rows = rows[(rows["step"] == 0) & (rows["type"] == "Linear")]
    if rows.empty:
        return [missing("no gradients at the start (measure.first, measure.layers)")]
    parts = []
    for arm, low, high in (("BN M=B", 1.2, 1.7), ("none", 0.8, 1.2)):
        factors, fits = [], []
        for _, net in rows[rows["arm"] == arm].groupby("id"):
            # The first and last layer have other widths.
            inner = net.sort_values("layer")["gradient_norm"].to_numpy()[1:-1]
            fit = line(np.arange(len(inner), 0, -1), 2 * np.log(inner))
            if fit:
                factors.append(math.exp(fit.slope.value))
                fits.append(fit.r2)
        estimate = mean_interval(factors)
        text = f"growth per layer, {arm}: {show(estimate)}"
        parts.append(within(estimate, low, high, text, f"a growth of {low} to {high}, {arm}"))
        if arm != "none" and fits:
            r2 = float(np.mean(fits))
            parts.append(Part(HOLDS if r2 >= 0.95 else FAILS, f"R² {r2:.3f}", None,
                              "" if r2 >= 0.95 else f"R² of {r2:.3f} is below 0.95"))
    return parts


def _deepest(frame: pd.DataFrame) -> Part:
    norm = of_arm(frame, "batch")
    deep, shallow = (accuracy(norm[norm["depth"] == layers]) for layers in (32, 4))
    gain = difference(deep, shallow)
    text = f"32 minus 4 layers, tuned: {show(gain, 'pt', sign=True)}"
    return within(gain, -math.inf, 0.1, text, "32 layers not better than 4")


def s13(results: Results) -> Verdict:
    frame = results.experiment("lr_tolerance").finals
    if frame.empty:
        parts = [missing("no finished trials of 'lr_tolerance'")]
    else:
        frame, parts = frame.assign(depth=depth), []
        for (init, layers), trials in frame.groupby(["model.init", "depth"]):
            judged = [tolerance(trials, layers)] if layers >= 5 else []
            parts += labelled([*judged, _low_end(trials)], f"{init}, {layers} layers: ")
        if frame["depth"].max() < 5:
            parts.append(missing("no net of 5 hidden layers or more"))
    return judge(
        CHECK_WORDS, "S13", "Tolerance of learning rates",
        "With batch norm, half of the trials diverge at a rate at least 5 times as high as "
        "without, at 5 hidden layers or more; at the lowest rate accuracies agree within 0.3 "
        "points.", parts, figure="fig-divergence", experiment="lr_tolerance", unit="times")


def tolerance(frame: pd.DataFrame, layers: int, bound: float = 5) -> Part:
    """The quotient of the two rates at which half diverge. Throws UnknownAxis."""
    for _, trials in frame.groupby(["arm", "train.lr"]):
        refuse_unknown_axes(trials)
    at = {arm: half_divergence(trials["train.lr"], trials["status"] == "DIVERGED")
          for arm, trials in frame.groupby("arm")}
    norm, plain = at.get("BN M=B"), at.get("none")
    if norm is None or plain is None:
        return missing(f"trials with and without batch norm at {layers} layers")
    what = (f"more than {bound:g} times the rate" if bound != 1 else "a higher rate")
    what += f" at {layers} hidden layers"
    text = (f"at {layers} hidden layers half diverge at {show(norm)} with, {show(plain)} without "
            "batch norm")
    if None in (norm.low, plain.low) or math.isinf(plain.value):
        return Part(OPEN, text, None, "no rate diverges without batch norm: " + what
                    if math.isinf(plain.value) else "divergence does not grow with the rate")
    if norm.value == 0 or plain.value == 0:
        return Part(OPEN, text, None, f"all rates diverge, lower ones are needed: {what}")
    times = quotient(norm, plain)
    return more_than(times, bound, f"{text}: {show(times, 'times')}", what)


def _low_end(frame: pd.DataFrame) -> Part:
    lowest = frame[frame["train.lr"] == frame["train.lr"].min()]
    norm, plain = (accuracy(of_arm(lowest, kind), TEST) for kind in ("batch", "none"))
    estimate = difference(norm, plain)
    text = (f"at the lowest rate, {number(frame['train.lr'].min())}, with minus without: "
            f"{show(estimate, 'pt', sign=True)}")
    return within(estimate, -0.3, 0.3, text, "agreement within 0.3 points at the lowest rate")
