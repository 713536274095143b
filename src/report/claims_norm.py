"""Claims on what batch norm does: 1 to 4, 9, 10."""

from collections.abc import Iterable

import pandas as pd

from report.checks_norm import tolerance
from report.evidence import (accuracy, by_seed, compare, depth, difference, finals, flags, of_arm,
                             targets_of, time_ratio, unsteady)
from report.expectations import TUNED_ON, VALIDATION, expects
from report.results import Results
from report.statistics import Estimate, holm
from report.verdicts import (CLAIM_WORDS, FAILS, HOLDS, OPEN, Part, Verdict, judge, missing,
                             more_than, number, show)

NO_WORSE = 0.1  # points: what a net with batch norm may lose under an optimizer and get along


def _claim(id: str, title: str, claim: str, parts: list[Part], **fields) -> Verdict:
    return judge(CLAIM_WORDS, id, title, claim, parts, **fields)


@expects(convergence={TUNED_ON: VALIDATION})
def steps(results: Results) -> Verdict:
    return _convergence(results, "C1a", "Fewer steps", "steps",
                        "Batch norm converges in fewer steps.")


@expects(convergence={TUNED_ON: VALIDATION})
def seconds(results: Results) -> Verdict:
    return _convergence(results, "C1b", "Less time", "seconds",
                        "Batch norm converges in less time.")


def _convergence(results: Results, id: str, title: str, column: str, claim: str) -> Verdict:
    targets = targets_of(results, "convergence")
    if targets.empty:
        part = missing("no finished trials of 'convergence'")
    else:
        estimate, remark = time_ratio(of_arm(targets, "none"), of_arm(targets, "batch"), column)
        part = missing(remark) if estimate is None else more_than(
            estimate, 1, f"without batch norm {show(estimate, 'times')} the {column} to "
            f"{number(100 * targets['error'].iloc[0])} % error at tuned rates {remark}".strip(),
            f"more {column} without batch norm")
    if column == "seconds" and (busy := _untimed(finals(results, "convergence"))):
        part = Part(OPEN, part.text, part.estimate, busy)
    return _claim(id, title, claim, [part], figure="fig-curves" if column == "steps" else
                  "fig-seconds", experiment="convergence", unit="times",
                  flags=flags(finals(results, "convergence")))


def _untimed(frame: pd.DataFrame) -> str:
    """Why seconds of the two arms cannot be compared, if so. Batch norm is work on top of the same
    step: where it seems to save time, the arms ran at times of different load."""
    norm, plain = (by_seed(of_arm(frame, kind), "cost.step_s").median()
                   for kind in ("batch", "none"))
    if norm < plain:
        return (f"a step without batch norm took {number(1e3 * plain)} ms, longer than one with it "
                f"({number(1e3 * norm)} ms), so the machine had other work")
    return unsteady(frame)


def learning_rates(results: Results) -> Verdict:
    frame = finals(results, "lr_tolerance")
    if frame.empty:
        parts = [missing("no finished trials of 'lr_tolerance'")]
    else:
        frame = frame.assign(depth=depth)
        if frame["model.init"].nunique() > 1:
            frame = frame[frame["model.init"] == "he"]
        parts = [tolerance(trials, int(layers), 1) for layers, trials in frame.groupby("depth")]
    return _claim("C2", "Higher learning rates", "Batch norm tolerates higher learning rates.",
                  parts, figure="fig-divergence", experiment="lr_tolerance", unit="times")


@expects(init_scale={TUNED_ON: VALIDATION})
def initial_weights(results: Results) -> Verdict:
    frame = finals(results, "init_scale")
    parts = [missing("no finished trials of 'init_scale'")]
    if len(frame):
        if frame["model.activation"].nunique() > 1:
            frame = frame[frame["model.activation"] == "relu"]
        plain, norm = (_range(of_arm(frame, kind)) for kind in ("none", "batch"))
        estimate = difference(plain, norm)
        parts = [more_than(
            estimate, 0, "over the scales of initial weights, tuned accuracy varies by "
            f"{number(plain.mean())} pt without and {number(norm.mean())} pt with batch norm: "
            f"{show(estimate, 'pt', sign=True)} more", "a wider range without batch norm")]
    return _claim("C3", "Insensitive to initial weights",
                  "Batch norm makes training less sensitive to the initial weights.", parts,
                  figure="fig-init", experiment="init_scale", unit="pt", flags=flags(frame))


def _range(frame: pd.DataFrame) -> pd.Series:
    """Best minus worst scale, by seed; a seed that lacks a scale has none."""
    table = pd.DataFrame({std: accuracy(trials)
                          for std, trials in frame.groupby("model.init_std")}).dropna()
    return table.max(axis=1) - table.min(axis=1) if table.shape[1] > 1 else pd.Series(dtype=float)


def dropout(results: Results) -> Verdict:
    frame = finals(results, "dropout")
    parts = [missing("no finished trials of 'dropout'")]
    if len(frame):
        gaps = {kind: _gap(_plain_dropout(of_arm(frame, kind))) for kind in ("none", "batch")}
        gains = {kind: _dropout_gain(of_arm(frame, kind)) for kind in ("none", "batch")}
        parts = [compare(gaps["none"], gaps["batch"],
                         "a smaller gap between training and test accuracy with batch norm"),
                 compare(gains["none"], gains["batch"],
                         "dropout gains more without batch norm than with it")]
        gain = difference(accuracy(_plain_dropout(of_arm(frame, "batch"))),
                          accuracy(_plain_dropout(of_arm(frame, "none"))))
        parts.append(Part(HOLDS, "test accuracy with minus without batch norm, no dropout: "
                                 f"{show(gain, 'pt', sign=True)}"))
    return _claim("C4", "Regularises",
                  "Batch norm regularises, so that less dropout is needed.", parts,
                  figure="fig-dropout", experiment="dropout", unit="pt", flags=flags(frame))


def _plain_dropout(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["model.dropout"] == 0]


def _gap(frame: pd.DataFrame) -> pd.Series:
    return accuracy(frame, "final_train_running_accuracy") - accuracy(frame)


def _dropout_gain(frame: pd.DataFrame) -> pd.Series:
    """Mean over all rates of dropout, none of them picked, against no dropout."""
    with_dropout = frame[frame["model.dropout"] > 0]
    rates = [accuracy(trials) for _, trials in with_dropout.groupby("model.dropout")]
    mean = pd.concat(rates, axis=1).mean(axis=1) if rates else accuracy(with_dropout)
    return mean - accuracy(_plain_dropout(frame))


def deep_nets(results: Results) -> Verdict:
    frame = finals(results, "depth")
    parts, outcome = [missing("no finished trials of 'depth'")], OPEN
    if len(frame):
        frame = frame.assign(depth=depth)
        parts, deepest = _by_depth(frame)
        outcome = _deepest_outcome(deepest)
        if outcome == OPEN:
            parts = [Part(OPEN, part.text, part.estimate,
                          "at the greatest depth it depends on the initial weights, or intervals "
                          "reach across 0") for part in parts]
    return _claim("C9", "Deeper nets", "Batch norm makes deeper nets trainable.", parts,
                  figure="fig-depth", experiment="depth", unit="pt", flags=flags(frame),
                  outcome=outcome)


def _by_depth(frame: pd.DataFrame) -> tuple[list[Part], list[Part]]:
    """Of each depth and kind of initial weights, deepest first; and those of the deepest net.
    Holm's over all."""
    cells = [(layers, init, trials) for (layers, init), trials
             in sorted(frame.groupby(["depth", "model.init"]), key=lambda c: (-c[0][0], c[0][1]))]
    gains = [difference(accuracy(of_arm(trials, "batch")), accuracy(of_arm(trials, "none")))
             for _, _, trials in cells]
    parts = [_signed(gain, p, f"{layers} layers, init {init}")
             for (layers, init, _), gain, p in zip(cells, gains, holm([g.p for g in gains]))]
    count = sum(layers == cells[0][0] for layers, _, _ in cells)
    return parts, parts[:count]


def _signed(gain: Estimate, p: float, where: str) -> Part:
    text = f"{where}: {show(gain, 'pt', sign=True)}"
    what = f"{where}: better with batch norm"
    if gain.low is None or p >= 0.05:
        remark = "" if gain.low is None or gain.low <= 0 <= gain.high else f" (Holm p = {p:.2g})"
        return Part(OPEN, text + remark, gain, f"not shown: {what}{remark}")
    return Part(HOLDS if gain.value > 0 else FAILS, text, gain,
                "" if gain.value > 0 else f"not so: {what}")


def _deepest_outcome(parts: Iterable[Part]) -> str:
    """Refuted only if no kind of initial weights shows it: the claim names none."""
    outcomes = {part.outcome for part in parts}
    return outcomes.pop() if len(outcomes) == 1 else OPEN


def optimizers(results: Results) -> Verdict:
    frame = finals(results, "optimizers")
    parts, outcome = [missing("no finished trials of 'optimizers'")], OPEN
    if len(frame):
        parts, outcome = _by_optimizer(frame)
    return _claim("C10", "Some optimizers",
                  "Batch norm does not get along with some optimizers (Adam, RMSprop).", parts,
                  figure="fig-optimizers", experiment="optimizers", unit="pt", flags=flags(frame),
                  outcome=outcome)


def optimizer_names(frame: pd.DataFrame) -> pd.Series:
    """Adam with beta1 = 0 is RMSprop, with Adam's correction of the bias."""
    def name(row: pd.Series) -> str:
        if row["train.optimizer"] != "sgd":
            return "RMSprop" if row["train.beta1"] == 0 else "Adam"
        return "SGD" if row["train.momentum"] == 0 else "SGD with momentum"
    return frame.apply(name, axis=1)


def _by_optimizer(frame: pd.DataFrame) -> tuple[list[Part], str]:
    gains = {name: difference(accuracy(of_arm(trials, "batch")), accuracy(of_arm(trials, "none")))
             for name, trials in frame.groupby(optimizer_names(frame))}
    named = [name for name in ("Adam", "RMSprop") if name in gains]
    if not named:
        return [missing("no trials with Adam or RMSprop")], OPEN
    adjusted = dict(zip(named, holm([gains[name].p for name in named])))
    parts = []
    for name in [*named, *(name for name in gains if name not in named)]:
        gain = gains[name]
        text = f"{name}, with minus without: {show(gain, 'pt', sign=True)}"
        if name not in named:
            parts.append(Part(HOLDS, text))
        elif gain.low is not None and gain.high < 0 and adjusted[name] < 0.05:
            parts.append(Part(HOLDS, text, gain))
        elif gain.low is not None and gain.low > -NO_WORSE:
            parts.append(Part(FAILS, text, gain, f"at most {NO_WORSE} points are lost with {name}"))
        else:
            parts.append(Part(OPEN, text, gain, f"with {name} neither a loss nor its absence (less "
                                                f"than {NO_WORSE} points) is shown"))
    outcomes = [part.outcome for part in parts[:len(named)]]
    # "Some" optimizers: one is enough, and all must fail for the claim to.
    if HOLDS in outcomes:
        return parts, HOLDS
    return parts, FAILS if set(outcomes) == {FAILS} else OPEN
