"""The settings that a verdict's sentence states, held against the trials that it reads: an
experiment of the right name may hold others."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from report.evidence import targets_of
from report.results import Results
from report.verdicts import CHECK_WORDS, OPEN, Verdict

# Not options, but read here as if they were.
TARGET, TUNED_ON = "target error", "learning rates tuned on"
VALIDATION = "validation data"


@dataclass(frozen=True)
class AtLeast:
    bound: float

    def __str__(self) -> str:
        return f"at least {self.bound:g}"


def expects(**experiments: dict) -> Callable:
    """Makes a verdict undecided, numbers and all, where a final trial of an experiment has another
    value of a setting. A setting is a column of trials, TARGET or TUNED_ON; what is expected of it
    is a value, a tuple of those allowed, or AtLeast."""
    def decorate(verdict_of: Callable[[Results], Verdict]) -> Callable[[Results], Verdict]:
        @functools.wraps(verdict_of)
        def held_against_trials(results: Results) -> Verdict:
            verdict = verdict_of(results)
            wrong = [found for experiment, settings in experiments.items()
                     if (found := _mismatch(results, experiment, settings))]
            return verdict if not wrong else dataclasses.replace(
                verdict, verdict=CHECK_WORDS[OPEN], reason=" and ".join(wrong))
        return held_against_trials
    return decorate


def _mismatch(results: Results, experiment: str, settings: dict) -> str:
    """For instance "'ioffe_equal' has B 64 instead of 60", "" if nothing is wrong."""
    wrong = []
    for key, expected in settings.items():
        found = list(dict.fromkeys(_values(results, experiment, key)))
        if not all(fits(value, expected) for value in found):
            allowed = expected if isinstance(expected, tuple) else (expected,)
            wrong.append(f"{key} {', '.join(map(_text, found))} instead of "
                         f"{' or '.join(map(_text, allowed))}")
    return f"'{experiment}' has {', '.join(wrong)}" if wrong else ""


def _values(results: Results, experiment: str, key: str) -> list:
    trials = results.experiment(experiment).finals
    if trials.empty:
        return []
    if key == TARGET:
        return list(targets_of(results, experiment)["error"]) or ["none"]
    if key == TUNED_ON:
        tuned = set(results.experiment(experiment).tuning["cell"])
        return ["nothing" if cell not in tuned else "test data" if str(of) == "test" else VALIDATION
                for cell, of in zip(trials["cell"], trials["data.validation"])]
    return list(trials[key]) if key in trials else ["none"]


def fits(value: object, expected: object) -> bool:
    """Options come as text or as numbers; what is expected is a number where numbers count."""
    if isinstance(expected, tuple):
        return any(fits(value, each) for each in expected)
    if isinstance(expected, str):
        return str(value) == expected
    number = pd.to_numeric(value, errors="coerce")
    return bool(number >= expected.bound if isinstance(expected, AtLeast) else
                np.isclose(number, expected, rtol=1e-6))


def _text(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, (int, float, np.number)) else str(value)
