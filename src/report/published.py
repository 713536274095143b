"""Numbers that others printed, and the trials of ours that they are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from report.results import Results

IN_PAPER, SECOND_HAND, FROM_MEMORY = "read in the source", "quoted second-hand", "from memory"
TEST, TRAIN = "final_test_running_accuracy", "final_train_running_accuracy"

# Printed beside a notebook's code; no run backs it: B -> (validation accuracy in %, training loss).
NOTEBOOK_TABLE = {16: (94.56, 0.2341), 32: (95.12, 0.2145), 64: (95.62, 0.1942),
                  128: (96.25, 0.1749)}
NOTEBOOK_EXPERIMENT = "notebook_output_norm_batches"


@dataclass(frozen=True)
class Published:
    source: str
    what: str
    printed: str
    mark: str
    experiments: tuple[str, ...]
    ours: Callable[[pd.DataFrame], pd.DataFrame]  # final trials of the experiments -> those meant
    column: str = TEST


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


IOFFE = "Ioffe and Szegedy 2015, figure 1a"
KESKAR = "Keskar et al. 2017, table 2, F1"
HOFFER = "Hoffer, Hubara and Soudry 2017, table 1, F1"
ROWS = [
    Published(IOFFE, "test accuracy with batch norm, B = 60", "no value printed; above none",
              IN_PAPER, ("ioffe_tuned",), _at(60, 60)),
    Published(IOFFE, "test accuracy without, B = 60", "no value printed", IN_PAPER,
              ("ioffe_tuned",), _at(60, 0)),
    Published(KESKAR, "small batch (256): training accuracy", "99.66 ± 0.05 %", IN_PAPER,
              ("keskar",), _at(256, 256), TRAIN),
    Published(KESKAR, "small batch (256): test accuracy", "98.03 ± 0.07 %", IN_PAPER,
              ("keskar",), _at(256, 256)),
    Published(KESKAR, "large batch (6,000): training accuracy", "99.92 ± 0.01 %", IN_PAPER,
              ("keskar",), _at(6000, 6000), TRAIN),
    Published(KESKAR, "large batch (6,000): test accuracy", "97.81 ± 0.07 %", IN_PAPER,
              ("keskar",), _at(6000, 6000)),
    Published("Shallue et al. 2019, on Keskar", "large batch (6,000) with M = 256: test accuracy",
              "none; if M explains the gap, that of the small batch", SECOND_HAND,
              ("keskar",), _at(6000, 256)),
    Published(HOFFER, "small batch (128)", "98.27 %", SECOND_HAND, ("hoffer",), _at(128, 128)),
    Published(HOFFER, "large batch (4,096)", "97.05 %", SECOND_HAND, ("hoffer",),
              _large(4096, "none")),
    Published(HOFFER, "large batch, rate scaled", "97.55 %", FROM_MEMORY, ("hoffer",),
              _large(4096, "sqrt")),
    Published(HOFFER, "large batch, rate scaled, ghost batch 128", "97.60 %", FROM_MEMORY,
              ("hoffer",), _large(128, "sqrt")),
    Published(HOFFER, "large batch, rate scaled, regime adapted", "98.53 %", SECOND_HAND,
              ("hoffer",), _large(4096, "sqrt", adapted=True)),
]
NOISE_SCALE = ("McCandlish et al. 2018, MNIST", "gradient noise scale, average over training",
               "≈ 900 (876 in a replication)", SECOND_HAND)


def beside_ours(results: Results) -> list[tuple[Published, pd.Series, pd.DataFrame]]:
    """(row, our values, our trials) of the rows whose trials are in the study."""
    found = []
    for row in ROWS:
        trials = results.finals[results.finals["experiment"].isin(row.experiments)]
        trials = row.ours(trials)
        values = trials[row.column].dropna().astype(float)
        if len(values):
            found.append((row, values, trials))
    return found
