"""What a check or a claim comes to, and the rules by which intervals decide.

An interval that reaches across a bound decides nothing. `Part`s are the conditions of one verdict:
all must hold for it to hold, and one that does not hold settles it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from report.statistics import Estimate

HOLDS, FAILS, OPEN = "holds", "fails", "open"
CHECK_WORDS = {HOLDS: "pass", FAILS: "fail", OPEN: "undecided"}
CLAIM_WORDS = {HOLDS: "supported", FAILS: "refuted", OPEN: "undecided"}


@dataclass
class Verdict:
    id: str
    title: str
    claim: str  # one sentence: the criterion or the claim
    verdict: str  # pass | fail | undecided of checks, supported | refuted | undecided of claims
    effect: str  # what was found, with units
    low: float | None = None  # the 95 % interval of the first number of `effect`
    high: float | None = None
    unit: str = ""
    n: int = 0  # pairs or trials behind it
    reason: str = ""  # why it failed or is undecided
    figure: str = ""
    flags: list[str] = field(default_factory=list)
    experiment: str = ""


@dataclass(frozen=True)
class Part:
    """One condition. `text`: what was found; `reason`: why it does not hold, or is open."""

    outcome: str
    text: str
    estimate: Estimate | None = None
    reason: str = ""


def show(estimate: Estimate, unit: str = "", sign: bool = False) -> str:
    """For instance "+0.31 pt [0.12, 0.50]"."""
    unit = f" {unit}" if unit else ""
    value = number(estimate.value, sign)
    if estimate.low is None:
        return f"{value}{unit} (no interval, n = {estimate.n})"
    return f"{value}{unit} [{number(estimate.low, sign)}, {number(estimate.high, sign)}]"


def number(value: float, sign: bool = False) -> str:
    """Three digits that count, without exponents where numbers are read as such."""
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif size >= 100:
        text = f"{value:.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.01 or size == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.2g}"
    return ("+" if sign and value > 0 else "") + text.replace("-", "−")


def at_least(estimate: Estimate, bound: float, text: str, what: str) -> Part:
    """Holds if the whole interval is at or above the bound, fails if all of it is below.
    `what`: the condition in words, for the reason."""
    if estimate.low is None:
        return Part(OPEN, text, estimate, no_interval(estimate, what))
    if estimate.low >= bound:
        return Part(HOLDS, text, estimate)
    if estimate.high < bound:
        return Part(FAILS, text, estimate, f"not so: {what}")
    return Part(OPEN, text, estimate, across(estimate, what))


def more_than(estimate: Estimate, bound: float, text: str, what: str) -> Part:
    """As at_least, but an end at the bound itself decides nothing."""
    if estimate.low is not None and bound in (estimate.low, estimate.high):
        return Part(OPEN, text, estimate, across(estimate, what))
    return at_least(estimate, bound, text, what)


def within(estimate: Estimate, low: float, high: float, text: str, what: str) -> Part:
    """Holds if the whole interval is inside the bounds, fails if all of it is outside."""
    if estimate.low is None:
        return Part(OPEN, text, estimate, no_interval(estimate, what))
    if low <= estimate.low and estimate.high <= high:
        return Part(HOLDS, text, estimate)
    if estimate.high < low or estimate.low > high:
        return Part(FAILS, text, estimate, f"not so: {what}")
    return Part(OPEN, text, estimate, across(estimate, what))


def across(estimate: Estimate, what: str) -> str:
    return (f"the interval [{number(estimate.low)}, {number(estimate.high)}] of n = {estimate.n} "
            f"neither shows nor excludes: {what}")


def no_interval(estimate: Estimate, what: str) -> str:
    if estimate.n == 0:
        return f"no seed has all that this needs: {what}"
    if estimate.n < 2:
        return f"no interval from n = {estimate.n}, at least 2 seeds are needed: {what}"
    return f"all {estimate.n} values are equal, which gives no interval: {what}"


def missing(what: str) -> Part:
    return Part(OPEN, "", None, what)


def labelled(parts: Iterable[Part], label: str) -> list[Part]:
    """What they are of goes before what was found and before the reason, where there are such."""
    return [replace(part, text=part.text and label + part.text,
                    reason=part.reason and label + part.reason) for part in parts]


def outcome_of(parts: Iterable[Part]) -> str:
    outcomes = [part.outcome for part in parts]
    if FAILS in outcomes:
        return FAILS
    return OPEN if OPEN in outcomes or not outcomes else HOLDS


def judge(words: dict[str, str], id: str, title: str, claim: str, parts: list[Part], *,
          figure: str, experiment: str, unit: str = "", flags: Iterable[str] = (),
          outcome: str | None = None) -> Verdict:
    """The verdict on all parts together, or `outcome` where the parts do not settle it so. The
    interval is that of the first part that has a number."""
    outcome = outcome_of(parts) if outcome is None else outcome
    estimates = [part.estimate for part in parts if part.estimate is not None and part.estimate.n]
    first = estimates[0] if estimates else Estimate(math.nan, None, None, 0)
    found = [part.text for part in parts
             if part.text and (part.estimate is None or part.estimate.n > 0)]
    told = [part for part in parts if part.outcome == outcome] if outcome != HOLDS else []
    return Verdict(
        id, title, claim, words[outcome], "; ".join(found),
        first.low, first.high, unit, first.n,
        "; ".join(dict.fromkeys(part.reason for part in told if part.reason)), figure,
        list(dict.fromkeys(flags)), experiment)
