"""Numbers that others printed, and the trials of ours that they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from report.evidence import of_arm
from report.expectations import fits
from report.figures.selection import in_short
from report.results import Results

IN_PAPER, SECOND_HAND, FROM_MEMORY = "read in the source", "quoted second-hand", "from memory"
TEST, TRAIN = "final_test_running_accuracy", "final_train_running_accuracy"

# Printed beside a notebook's code; no run backs it: B -> (validation accuracy in %, training loss).
NOTEBOOK_TABLE = {16: (94.56, 0.2341), 32: (95.12, 0.2145), 64: (95.62, 0.1942),
                  128: (96.25, 0.1749)}
NOTEBOOK_EXPERIMENT = "notebook_output_norm_batches"
NOT_KNOWN = "not known"  # of a setting that matters and that we cannot tell

# What a reader knows options by.
NAMES = {"data.name": "data", "data.limit": "images", "data.validation": "held out",
         "data.scale": "pixels", "data.augment": "augmentation", "model.hidden": "network",
         "model.activation": "activation",
         "train.lr_reference": "reference batch of the rule", "train.schedule": "schedule",
         "train.milestones": "milestones", "train.gamma": "factor at a milestone",
         "train.epochs": "epochs", "train.max_steps": "steps", "train.optimizer": "optimizer",
         "train.lr": "learning rate", "train.momentum": "momentum", "norm.batch": "M",
         "train.weight_decay": "weight decay", "train.clip": "clipping", "stopped": "stopped by"}
WORDS = {("data.limit", "0"): "all", ("train.max_steps", "-1"): "as many as the epochs have",
         ("data.validation", "test"): "none"}


@dataclass(frozen=True)
class Published:
    """`settings`: options of the published training, where they are known."""

    source: str
    what: str
    printed: str
    mark: str
    experiments: tuple[str, ...]
    ours: Callable[[pd.DataFrame], pd.DataFrame]  # final trials of an experiment -> those meant
    column: str = TEST
    settings: dict[str, object] = field(default_factory=dict)


def departures(trials: pd.DataFrame, settings: dict[str, object]) -> list[str]:
    """In what our trials are not as published: "epochs 3 (published: 50)"."""
    found = []
    for key, published in settings.items():
        ours = list(dict.fromkeys(trials[key]))
        if not all(fits(value, published) for value in ours):
            told = ", ".join(_in_words(key, value) for value in ours)
            found.append(f"{NAMES.get(key, key)} {told} (published: {_in_words(key, published)})")
    return found


def _in_words(key: str, value: object) -> str:
    return WORDS.get((key, str(value))) or in_short(value)


def _at(batch: int, norm_batch: int) -> Callable:
    return lambda trials: trials[(trials["B"] == batch) & (trials["M"] == norm_batch)]


def _large(norm_batch: int, lr_rule: str, adapted: bool = False) -> Callable:
    """Large batches of Hoffer's ladder; regime adaptation trains for more epochs."""
    def select(trials: pd.DataFrame) -> pd.DataFrame:
        rows = _at(4096, norm_batch)(trials)
        if rows.empty:
            return rows
        longer = rows["train.epochs"] > trials["train.epochs"].min()
        return rows[(rows["train.lr_rule"] == lr_rule) & (longer == adapted)]
    return select


IOFFE_NET = {"data.name": "mnist", "model.hidden": "100,100,100", "model.activation": "sigmoid",
             "B": 60}
IOFFE_SETTINGS = IOFFE_NET | {"data.scale": "binary", "data.augment": "none", "data.limit": 0,
                              "train.max_steps": 50_000}
F1 = {"data.name": "mnist", "data.limit": 0, "model.hidden": "512,512,512,512,512"}
KESKAR_TRAINING = F1 | {"data.validation": "test", "train.optimizer": "adam", "train.lr": 1e-3}
KESKAR_SETTINGS = KESKAR_TRAINING | {"data.augment": "none", "stopped": "plateau"}
KESKAR_TEST = {256: 98.03, 6000: 97.81}  # B -> test accuracy in %
# What S4 holds its trials to, and what is compared beside it.
HOFFER_SETTINGS = F1 | {
    "data.augment": "crop-flip", "train.optimizer": "sgd", "train.momentum": 0.9,
    "train.weight_decay": 1e-4, "train.clip": 5, "train.lr": 0.1, "train.epochs": 50}
# Their "validation" may be of MNIST's test images, after training on all 60,000.
HOFFER_TRAINING = HOFFER_SETTINGS | {
    "data.validation": NOT_KNOWN, "data.scale": "half", "train.schedule": "step",
    "train.milestones": "10,20,30", "train.gamma": 0.1}
# The square-root rule's reference is another in their plain script and in that of ghost batches.
HOFFER_RULE = HOFFER_TRAINING | {"train.lr_reference": 256}
HOFFER_GHOST = HOFFER_TRAINING | {"train.lr_reference": 128}
HOFFER_ADAPTED = HOFFER_TRAINING | {
    "train.lr_reference": NOT_KNOWN, "train.epochs": 1600, "train.milestones": "320,640,960"}


def _ioffe(what: str, printed: str, kind: str) -> Published:
    return Published("Ioffe and Szegedy 2015, figure 1a", what, printed, IN_PAPER, ("ioffe_tuned",),
                     lambda trials: of_arm(trials, kind), settings=IOFFE_SETTINGS)


def _keskar(batch: int, name: str, train: str, test: str) -> list[Published]:
    return [Published("Keskar et al. 2017, table 2, F1", f"{name} ({batch:,}): {what} accuracy",
                      printed, IN_PAPER, ("keskar",), _at(batch, batch), column, KESKAR_SETTINGS)
            for what, printed, column in (("training", train, TRAIN), ("test", test, TEST))]


def _hoffer(what: str, printed: str, mark: str, ours: Callable,
            settings: dict[str, object] = HOFFER_TRAINING) -> Published:
    return Published("Hoffer, Hubara and Soudry 2017, table 1, F1", what, printed, mark,
                     ("hoffer", "hoffer_plain"), ours, settings=settings)


ROWS = [
    _ioffe("test accuracy with batch norm, B = 60", "no value printed; above none", "batch"),
    _ioffe("test accuracy without, B = 60", "no value printed", "none"),
    *_keskar(256, "small batch", "99.66 ± 0.05 %", f"{KESKAR_TEST[256]} ± 0.07 %"),
    *_keskar(6000, "large batch", "99.92 ± 0.01 %", f"{KESKAR_TEST[6000]} ± 0.07 %"),
    # 256 does not divide 6,000, so that groups of 250 stand for those of 256.
    Published("Shallue et al. 2019, on Keskar", "large batch (6,000) with M = 256: test accuracy",
              "none; if M explains the gap, that of the small batch", SECOND_HAND,
              ("keskar",), _at(6000, 250), settings=KESKAR_SETTINGS | {"norm.batch": 256}),
    _hoffer("small batch (128)", "98.27 %", SECOND_HAND, _at(128, 128)),
    _hoffer("large batch (4,096)", "97.05 %", SECOND_HAND, _large(4096, "none")),
    _hoffer("large batch, rate scaled", "97.55 %", FROM_MEMORY, _large(4096, "sqrt"), HOFFER_RULE),
    _hoffer("large batch, rate scaled, ghost batch 128", "97.60 %", FROM_MEMORY,
            _large(128, "sqrt"), HOFFER_GHOST),
    _hoffer("large batch, rate scaled, regime adapted", "98.53 %", SECOND_HAND,
            _large(4096, "sqrt", adapted=True), HOFFER_ADAPTED),
]
# Averaged as the checks do, and so not in ROWS; batch, rate and epochs are the replication's.
NOISE_SCALE = Published(
    "McCandlish et al. 2018, MNIST", "gradient noise scale, average over training",
    "≈ 900 (876 in a replication)", SECOND_HAND, ("noise_scale",),
    lambda trials: of_arm(trials, "none"),
    settings={"data.name": "mnist", "data.limit": 0, "model.hidden": "a small convolutional one",
              "train.optimizer": "sgd", "B": 128, "train.lr": 0.01, "train.epochs": 1})


@dataclass(frozen=True)
class Beside:
    """A published number and our trials of one experiment."""

    row: Published
    experiment: str
    values: pd.Series
    trials: pd.DataFrame


def beside_ours(results: Results) -> list[Beside]:
    """The rows whose trials are in the study."""
    found = []
    for row in ROWS:
        for experiment in row.experiments:
            trials = row.ours(results.experiment(experiment).finals)
            values = trials[row.column].dropna().astype(float)
            if len(values):
                found.append(Beside(row, experiment, values, trials))
    return found
