"""Experiments whose effects a test plants: trials that differ by seed in a fixed way."""

from __future__ import annotations

from support.study_tree import Cell, Experiment, Trial, tuning

# Of each seed, on top of what a test asks for: seeds differ, and so do the arms of one seed.
COMMON = [0.0, 0.4, -0.3, 0.2, -0.1]
OWN = [0.03, -0.02, 0.01, -0.03, 0.02]
TUNED = tuning({0.1: 0.97}, 0.1)


def noise(seed: int, arm: int = 0) -> float:
    """About ±0.3 for all arms of a seed, and ±0.03 of the arm's own, in points."""
    return COMMON[(seed - 1) % 5] + OWN[(seed - 1 + 2 * arm) % 5] * (1 if arm % 2 else -1)


def factor(seed: int, arm: int = 0) -> float:
    """The same as a factor, for steps and seconds."""
    return 1 + 0.1 * noise(seed, arm)


def accuracies(percent: float, seed: int, arm: int, **others: float) -> dict[str, float]:
    """Test accuracy under running statistics; others by metric (train_running), in percent."""
    shift = noise(seed, arm)
    return {f"{metric}_accuracy": (value + shift) / 100
            for metric, value in {"test_running": percent, **others}.items()}


def cells(levels: dict[tuple, float], keys: tuple[str, ...], seeds: int = 5, options=None,
          **others) -> list[Cell]:
    """A cell for each setting of the keys, with its test accuracy in percent."""
    return [Cell(dict(zip(keys, map(str, setting))),
                 [Trial(seed, finals=accuracies(percent, seed, arm, **others))
                  for seed in range(1, seeds + 1)], TUNED)
            for arm, (setting, percent) in enumerate(levels.items())]


def experiment(name: str, made: list[Cell], **options: str) -> Experiment:
    return Experiment(name, made, options={key.replace("__", "."): value
                                           for key, value in options.items()})
