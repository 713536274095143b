"""Checks against published runs: Ioffe and Szegedy (S1), Keskar (S3), Hoffer (S4)."""

import math

import pandas as pd

from report.evidence import (accuracy, difference, finals, flags, of_arm, of_trials,
                             per_seed, ratio, targets_of, time_ratio)
from report.expectations import TARGET, TUNED_ON, VALIDATION, expects
from report.published import HOFFER_SETTINGS, IOFFE_NET, KESKAR_TEST, KESKAR_TRAINING
from report.results import Results
from report.statistics import mean_interval
from report.verdicts import (CHECK_WORDS, HOLDS, Part, Verdict, at_least, judge, missing, number,
                             show, within)

KESKAR_WITHIN = 0.3


@expects(ioffe_equal={**IOFFE_NET, "lr": 0.01, TARGET: 0.05},
         ioffe_tuned={**IOFFE_NET, TUNED_ON: VALIDATION})
def s1(results: Results) -> Verdict:
    equal, tuned = finals(results, "ioffe_equal"), finals(results, "ioffe_tuned")
    parts = [_speed_at_equal_rate(results) if len(equal) else
             missing("no finished trials of 'ioffe_equal'")]
    parts += ([*_at_tuned_rates(tuned), _drift(results, tuned)] if len(tuned) else
              [missing("no finished trials of 'ioffe_tuned'")])
    return judge(
        CHECK_WORDS, "S1", "Batch norm speeds the paper's net",
        "Sigmoid net of three layers of 100, B = 60, on MNIST: at the equal rate 0.01 at least 5 "
        "times fewer steps to 95 %; at tuned rates a test accuracy of at least 96.5 % and no less "
        "than without; at least 3 times less drift of the last sigmoid's inputs.", parts,
        figure="fig-units", experiment="ioffe_equal, ioffe_tuned", unit="times",
        flags=flags(equal) + flags(tuned))


def _speed_at_equal_rate(results: Results) -> Part:
    targets = targets_of(results, "ioffe_equal")
    estimate, remark = time_ratio(of_arm(targets, "none"), of_arm(targets, "batch"))
    if estimate is None:
        return missing(f"steps at an equal rate: {remark}")
    text = (f"steps to {number(100 - 100 * targets['error'].iloc[0])} % without over with batch "
            f"norm at an equal rate: {show(estimate, 'times')}")
    return at_least(estimate, 5, f"{text} {remark}".strip(), "at least 5 times fewer steps")


def _at_tuned_rates(tuned: pd.DataFrame) -> list[Part]:
    norm, plain = accuracy(of_arm(tuned, "batch")), accuracy(of_arm(tuned, "none"))
    level, gain = mean_interval(norm), difference(norm, plain)
    return [at_least(level, 96.5, f"tuned test accuracy with batch norm: {show(level, '%')}",
                     "at least 96.5 %"),
            at_least(gain, 0, f"tuned gain: {show(gain, 'pt', sign=True)}",
                     "no less than without batch norm")]


def _drift(results: Results, tuned: pd.DataFrame) -> Part:
    """The deviation over time of each unit's median, averaged over units."""
    units = of_trials(results.experiment("ioffe_tuned").units, tuned)
    if units.empty:
        return missing("no percentiles of units (measure.units)")

    def drift(rows: pd.DataFrame) -> float:
        return rows.groupby("unit")["p50"].std().mean()

    plain, norm = (per_seed(of_arm(units, kind), drift) for kind in ("none", "batch"))
    estimate = ratio(plain, norm)
    return at_least(estimate, 3, f"drift without over with: {show(estimate, 'times')}",
                    "at least 3 times less drift")


@expects(keskar={**KESKAR_TRAINING, "B": tuple(KESKAR_TEST)})
def s3(results: Results) -> Verdict:
    frame = finals(results, "keskar")
    parts = _keskar(frame) if len(frame) else [missing("no finished trials of 'keskar'")]
    return judge(
        CHECK_WORDS, "S3", "Keskar's gap",
        "On all 60,000 images, with five layers of 512 and Adam at 0.001: the small batch of 256 "
        "is better than the large one of 6,000 by 0.05 to 0.5 points, and each is within "
        f"{KESKAR_WITHIN} points of what was printed "
        f"({' and '.join(map(str, KESKAR_TEST.values()))} %).", parts,
        figure="fig-batch-table", experiment="keskar", unit="pt", flags=flags(frame))


def _keskar(frame: pd.DataFrame) -> list[Part]:
    small = frame[frame["B"] == frame["B"].min()]
    large = frame[(frame["B"] == frame["B"].max()) & (frame["M"] == frame["B"])]
    ghost = frame[(frame["B"] == frame["B"].max()) & (frame["M"] < frame["B"])]
    gap = difference(accuracy(small), accuracy(large))
    text = f"small minus large batch: {show(gap, 'pt', sign=True)}"
    parts = [within(gap, 0.05, 0.5, text, "a gap of 0.05 to 0.5 points")]
    if len(ghost):
        left = difference(accuracy(small), accuracy(ghost))
        parts.append(Part(HOLDS, f"with M = {int(ghost['M'].iloc[0])} in the large batch: "
                                 f"{show(left, 'pt', sign=True)}"))
    for batch in sorted(set(KESKAR_TEST) & set(frame["B"])):
        trials = frame[(frame["B"] == batch) & (frame["M"] == batch)]
        level = mean_interval(accuracy(trials) - KESKAR_TEST[batch])
        parts.append(within(level, -KESKAR_WITHIN, KESKAR_WITHIN,
                            f"B = {batch} against print: {show(level, 'pt', sign=True)}",
                            f"within {KESKAR_WITHIN} points of print"))
    return parts


@expects(hoffer={**HOFFER_SETTINGS, "train.epochs": (50, 1600), "B": (128, 4096),
                 "train.lr_reference": 128})
def s4(results: Results) -> Verdict:
    frame = finals(results, "hoffer")
    parts = _hoffer(frame) if len(frame) else [missing("no finished trials of 'hoffer'")]
    plain = len(frame) > 0 and (frame["data.augment"] != HOFFER_SETTINGS["data.augment"]).any()
    return judge(
        CHECK_WORDS, "S4", "Hoffer's ladder",
        "On MNIST, not cut short, cropped and flipped at random, with five layers of 512: the "
        "batch of 4,096 loses at least 0.4 points against that of 128, the square-root rule "
        "recovers at least 25 % of them, and regime adaptation comes within 0.1 points of the small batch.",
        parts, figure="published", experiment="hoffer", unit="pt",
        flags=["without the published augmentation: gaps, not levels, compare"] * bool(plain)
        + flags(frame))


def _hoffer(frame: pd.DataFrame) -> list[Part]:
    large = frame["B"] == frame["B"].max()
    longer = frame["train.epochs"] > frame["train.epochs"].min()
    short = frame[large & ~longer]
    scaled = short[short["train.lr_rule"] == "sqrt"]
    small = accuracy(frame[frame["B"] == frame["B"].min()])
    base = accuracy(short[short["train.lr_rule"] == "none"])
    rule = accuracy(scaled[scaled["M"] == scaled["B"]])
    ghost = accuracy(scaled[scaled["M"] < scaled["B"]])
    adapted = accuracy(frame[large & longer])
    gap, gain = difference(small, base), difference(rule, base)
    # What is recovered beyond a quarter of the gap: an interval of a difference, not of a quotient.
    beyond = mean_interval((rule - base - 0.25 * (small - base)).dropna())
    share = gain.value / gap.value if gap.value else math.nan
    back = difference(adapted, small)
    return [
        at_least(gap, 0.4, f"small minus large batch: {show(gap, 'pt', sign=True)}",
                 "a gap of at least 0.4 points"),
        at_least(beyond, 0, f"the rule recovers {100 * share:.0f} % "
                 f"({show(beyond, 'pt', sign=True)} beyond a quarter)", "at least 25 % recovered"),
        at_least(back, -0.1, f"adapted minus small: {show(back, 'pt', sign=True)}",
                 "at most 0.1 points below the small batch"),
        Part(HOLDS, "ghost batches at the same rate: "
                    + show(difference(ghost, rule), "pt", sign=True))]
