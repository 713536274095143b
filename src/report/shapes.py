"""What the JSON files of a study hold, and where a file departs from that.

A shape is a type or several, a list of one shape for all elements, a dict of keys' shapes, of which
those ending in "?" may be absent and "*" is that of all other keys, or one of the classes here."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST_COUNT = 2**53  # up to which a float counts
LARGEST = 1e300  # of any number, so that its square root, logarithm and double are numbers too


@dataclass(frozen=True)
class Number:
    """A number that can be drawn: finite, and no truth value. `text`: written as a text, as options
    are."""

    low: float = -LARGEST
    high: float = LARGEST
    whole: bool = False
    text: bool = False

    def misfit(self, value: object, name: str) -> str:
        if self._fits(value):
            return ""
        limits = (f" from {self.low:g} to {self.high:g}"
                  if type(value) in (int, float) and not self.text else "")
        return (f"{name} holds {_shown(value)}, and must be a {'whole ' * self.whole}number"
                f"{limits}{' in quotes' * self.text}")

    def _fits(self, value: object) -> bool:
        if self.text:
            try:
                value = (int if self.whole else float)(value) if isinstance(value, str) else None
            except ValueError:
                return False
        known = type(value) is int or (type(value) is float and not self.whole)
        return known and self.low <= value <= self.high and not math.isnan(value)


@dataclass(frozen=True)
class OrNull:
    shape: object

    def misfit(self, value: object, name: str) -> str:
        return "" if value is None else misfit(value, self.shape, name)


@dataclass(frozen=True)
class Name:
    """Of a folder, in which more is looked for."""

    def misfit(self, value: object, name: str) -> str:
        fits = (isinstance(value, str) and value not in ("", ".", "..")
                and not {"/", "\0"} & set(value) and len(value.encode()) < 256)
        return "" if fits else f"{name} holds {_shown(value)}, and must be the name of a folder"


NUMBER = Number()
POSITIVE = Number(low=1e-300)
SECONDS = Number(low=0, high=1e15)
COUNT = Number(low=0, high=LARGEST_COUNT, whole=True)
SEED = Number(low=-LARGEST_COUNT, high=2**64, whole=True)
FROM_1 = Number(low=1, high=LARGEST_COUNT, whole=True)
SIZES = Number(low=-LARGEST_COUNT, high=LARGEST_COUNT, whole=True, text=True)
FRACTIONS = Number(text=True)
OPTIONS = {
    "train.epochs": SIZES, "train.max_steps": SIZES,
    **{f"{key}?": SIZES for key in (
        "data.limit", "train.batch", "train.batch_per_rank", "train.lr_reference",
        "train.warmup_steps", "run.shards")},
    **{f"{key}?": FRACTIONS for key in (
        "model.init_std", "model.dropout", "norm.momentum", "norm.eps", "train.lr", "train.gamma",
        "train.momentum", "train.beta1", "train.beta2", "train.adam_eps", "train.weight_decay",
        "train.clip")},
    "*": str}

STUDY = {
    "name": str, "title?": str, "hosts?": [str], "ranks?": FROM_1, "versions?": {},
    "data?": {"*": {}}, "command?": str, "started?": str, "device?": str, "arithmetic?": str,
    "experiments": [{
        "name": Name(), "title?": str, "axes": [{"keys": [str]}],
        "cells": [{"cell": Name(), "trials": COUNT, "ranks?": FROM_1}],
        "tune?": OrNull({"lr?": [NUMBER], "criterion?": str}),
        "dropped?": [{"cell": str, "reason": str}]}]}
CELL = {"settings": {"*": str}, "study?": {"*": str}}
TUNING = {"chosen": OrNull(NUMBER), "edge?": str, "fallback?": bool, "criterion?": OrNull(str),
          "curve": [{"lr": POSITIVE, "values": [OrNull(NUMBER)], "median": OrNull(NUMBER),
                     "diverged": COUNT}]}
TRIAL = {
    "stage": str, "seed": SEED, "lr": POSITIVE, "batch": FROM_1, "norm_batch": COUNT,
    "steps": COUNT, "options": OPTIONS, "samples?": COUNT, "seconds?": SECONDS,
    "epochs?": Number(low=0), "cost?": {"*": OrNull(NUMBER)}, "started?": SECONDS,
    "finished?": SECONDS, "ranks?": FROM_1, "first_rank?": COUNT, "parameters?": COUNT,
    "stopped?": str, "reason?": str, "device?": str, "host?": str, "versions?": {},
    "arithmetic?": (dict, str),
    "targets?": [{"error": NUMBER, "steps": OrNull(COUNT), "samples?": OrNull(COUNT),
                  "epochs?": OrNull(Number(low=0)), "seconds?": OrNull(SECONDS)}]}


def misfit(value: object, shape: object, name: str = "it") -> str:
    """What is wrong with a value, in words; "" if nothing is."""
    if isinstance(shape, dict):
        return _misfit_of_object(value, shape, name)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        return next((wrong for each in value if (wrong := misfit(each, shape[0], name))), "")
    if isinstance(shape, (Number, OrNull, Name)):
        return shape.misfit(value, name)
    return "" if isinstance(value, shape) else f"{name} holds {_shown(value)}"


def _misfit_of_object(value: object, shape: dict, name: str) -> str:
    if not isinstance(value, dict):
        return f"{name} is no JSON object"
    for key, of_key in shape.items():
        if key == "*":
            continue
        key, optional = key.removesuffix("?"), key.endswith("?")
        if key not in value and not optional:
            return f"{name} has no '{key}'"
        if key in value and (wrong := misfit(value[key], of_key, f"'{key}'")):
            return wrong
    if "*" not in shape:
        return ""
    return next((wrong for key, each in value.items()
                 if key not in shape and f"{key}?" not in shape
                 and (wrong := misfit(each, shape["*"], f"'{short(key)}'"))), "")


def unfit_text(value: object, deepest: int) -> str:
    """What no page can show, whatever its meaning: half a character, or levels without end."""
    level = [value]
    for _ in range(deepest):
        texts = [each for each in level if isinstance(each, str)]
        texts += [key for each in level if isinstance(each, dict) for key in each]
        if any(map(lone_surrogate, texts)):
            return "a text in it is no Unicode"
        level = [inner for each in level if isinstance(each, (dict, list))
                 for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return ""
    return f"it has more than {deepest} levels"


def lone_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _shown(value: object) -> str:
    return "null" if value is None else short(repr(value))


def short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[:most] + " …"
