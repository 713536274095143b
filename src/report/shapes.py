"""What the JSON files of a study hold, and where a file departs from that.

A shape is a type or several, a list of one shape for all elements, or a dict of keys' shapes, of
which those ending in "?" may be absent."""

from __future__ import annotations

NUMBER = (int, float)
OR_NONE = (int, float, type(None))

STUDY = {
    "name": str, "title?": str, "hosts?": [str], "ranks?": int, "versions?": {}, "data?": {},
    "experiments": [{
        "name": str, "axes": [{"keys": [str]}],
        "cells": [{"cell": str, "trials": int, "ranks?": int}],
        "tune?": (dict, type(None)), "dropped?": [{"cell": str, "reason": str}]}]}
CELL = {"settings": {}, "study?": {}}
TUNING = {"chosen": OR_NONE, "edge?": str, "fallback?": bool,
          "curve": [{"lr": NUMBER, "values": [OR_NONE], "median": OR_NONE, "diverged": int}]}
TRIAL = {
    "stage": str, "seed": int, "lr": NUMBER, "batch": int, "norm_batch": int, "steps": int,
    "options": {}, "samples?": NUMBER, "seconds?": NUMBER, "cost?": {},
    "started?": NUMBER, "finished?": NUMBER, "ranks?": int, "first_rank?": int,
    "versions?": {}, "arithmetic?": (dict, str),
    "targets?": [{"error": NUMBER, "steps": OR_NONE, "samples?": OR_NONE, "epochs?": OR_NONE,
                  "seconds?": OR_NONE}]}


def misfit(value: object, shape: object, name: str = "it") -> str:
    """What is wrong with a value, in words; "" if nothing is."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{name} is no JSON object"
        for key, of_key in shape.items():
            key, optional = key.removesuffix("?"), key.endswith("?")
            if key not in value and not optional:
                return f"{name} has no '{key}'"
            if key in value and (wrong := misfit(value[key], of_key, f"'{key}'")):
                return wrong
        return ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is no list"
        return next((wrong for each in value if (wrong := misfit(each, shape[0], name))), "")
    if isinstance(value, shape):
        return ""
    return f"{name} holds " + ("null" if value is None else repr(value))
