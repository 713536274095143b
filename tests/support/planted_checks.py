"""The experiments of the checks, each with the phenomenon that its check looks for unless a value
says otherwise. Each function gives the list of experiments that one check reads."""

from __future__ import annotations

from report.published import HOFFER_SETTINGS
from support.planted import TUNED, accuracies, cells, experiment, factor, noise
from support.study_tree import Cell, Trial

SEEDS = range(1, 6)
F1 = {"model__hidden": "512,512,512,512,512"}
# Test and training accuracy by M.
BASE = {2: (94.0, 93.0), 4: (96.0, 97.0), 32: (97.0, 99.0), 128: (97.0, 99.5)}


def ioffe(faster=8.0, level=97.0, gain=1.0, drift=5.0, censored=False):
    def units(seed, size):
        return [{"step": 100 * i, "unit": unit, "p15": 0, "p85": 0,
                 "p50": size * factor(seed, int(size)) * (-1) ** i}
                for i in range(6) for unit in (0, 1)]
    equal = [Cell({"norm.kind": kind}, [
        Trial(s, lr=0.01, steps=40_000, targets={0.05: steps and round(steps * factor(s, arm))})
        for s in SEEDS])
        for arm, (kind, steps) in enumerate((("none", None if censored else 2000 * faster),
                                             ("batch", 2000)))]
    tuned = [Cell({"norm.kind": kind}, [Trial(s, finals=accuracies(value, s, arm),
                                              tables={"units": units(s, size)}) for s in SEEDS],
                  TUNED)
             for arm, (kind, value, size) in enumerate((("none", level - gain, drift),
                                                        ("batch", level, 1.0)))]
    net = {"model__hidden": "100,100,100", "model__activation": "sigmoid", "train__batch": "60"}
    return [experiment("ioffe_equal", equal, **net), experiment("ioffe_tuned", tuned, **net)]


def keskar(small=98.03, large=97.81, batches=(256, 6000), limit="0"):
    levels = {(batches[0], batches[0]): small, (batches[1], batches[1]): large,
              (batches[1], 250): small}
    made = cells(levels, ("train.batch", "norm.batch"))
    for cell in made:  # seeds that differ less: print's own deviation is 0.07
        for trial in cell.trials:
            trial.finals["test_running_accuracy"] -= 0.7 * noise(trial.seed) / 100
            trial.lr = 0.001
    return [experiment("keskar", made, **F1, data__limit=limit, data__validation="test",
                       train__optimizer="adam")]


def hoffer(base=97.0, rule=97.9, adapted=98.3, batches=(128, 4096), **options):
    small, large = batches
    levels = {(small, small, "none", 50): 98.3, (large, large, "none", 50): base,
              (large, large, "sqrt", 50): rule, (large, small, "sqrt", 50): rule - 1,
              (large, large, "sqrt", 1600): adapted}
    made = cells(levels, ("train.batch", "norm.batch", "train.lr_rule", "train.epochs"))
    settings = {key.replace(".", "__"): str(value) for key, value in HOFFER_SETTINGS.items()}
    return [experiment("hoffer", made, **settings | options)]


def m_sweep(tests=None, trains=None, share=0.001, tail=100.0, layer=(97.0, 97.0),
            batch_gap=None, seeds=SEEDS, name="m_sweep", activation="relu"):
    tests, trains, batch_gap = tests or {}, trains or {}, batch_gap or {}
    gaps = {2: 3.0, 4: 1.0, 32: 0.0, 128: 0.0} | batch_gap
    made = []
    for arm, (m, (test, train)) in enumerate(BASE.items()):
        median = share if m == 2 else 1.0
        trials = []
        for s in seeds:
            # The last layer at the end is the one that counts: elsewhere no M differs.
            rows = [{"step": step, "layer": index, "type": "BatchNorm1d", "m": m, "name": "1",
                     "group_gradient_median": here * factor(s, arm),
                     "group_gradient_p99": here * tail, "gain_median": here}
                    for step in (500, 1000) for index in (1, 4)
                    for here in (median if (step, index) == (1000, 4) else 7.0,)]
            level = tests.get(m, test)
            finals = {**accuracies(0, s, arm + 1, test_recomputed=level),
                      **accuracies(0, s, arm + 2, test_batch=level - gaps[m]),
                      **accuracies(level, s, arm, train_running=trains.get(m, train))}
            trials.append(Trial(s, finals=finals, tables={"layers": rows}))
        made.append(Cell({"norm.kind": "batch", "norm.batch": str(m)}, trials))
    for arm, (m, level) in enumerate(zip((2, 128), layer)):
        made.append(Cell({"norm.kind": "layer", "norm.batch": str(m)}, [
            Trial(s, finals=accuracies(level, s, 0 if layer[0] == layer[1] else arm))
            for s in seeds]))
    return [experiment(name, made, model__activation=activation)]


def noise_law(power=-1.0, level=1.0, variance_power=-1.0, nets=3):
    def rows(seed):
        def of(m, slope):
            return factor(seed, m.bit_length()) ** 0.2 * (m / 16) ** (slope + 1) / m
        return [{"layer": layer, "m": m, "draws": 200, "mean_noise_theory": 1 / m,
                 "mean_noise": level * of(m, power),
                 "variance_noise_theory": 2 / m,
                 "variance_noise": 2 * of(m, variance_power)}
                for layer in (1, 4) for m in (2, 4, 8, 16, 32, 64, 128)]
    return [experiment("noise_law", [Cell({}, [Trial(s, tables={"noise_law": rows(s)})
                                               for s in range(1, nets + 1)])])]


def ema(scatter=4.0, after=0.0, off=0.0):
    made = []
    for population in (1000, 55000):
        trials = []
        for s in SEEDS:
            rows = []
            for i in range(1, 25):
                late = i > 16
                exact = 0.97 + (0 if late else 0.002 * (-1) ** i * factor(s))
                exact -= 0.1 * max(0, 8 - i)  # the climb of the first half is no scatter
                running = exact + (after / 100 if late else 0.002 * (scatter - 1) * (-1) ** i)
                rows.append({"step": 13 * i, "epoch": i / 2, "lr": 1.6,
                             "val_running_accuracy": running + late * noise(s, 2) / 1e4,
                             "val_recomputed_accuracy": exact})
            rows[-1]["val_recomputed_accuracy"] += (
                (off + 0.02 * noise(s)) / 100 if population == 1000 else 0)
            trials.append(Trial(s, lr=1.6, tables={"measurements": rows}))
        made.append(Cell({"study.x": "1", "measure.population": str(population)}, trials))
    return [experiment("ema", made, train__milestones="8", train__batch="2048",
                       train__schedule="step")]


def steps_to_target(minimum=60, samples=60_000, top=65_536, censored=(), power=None):
    made = []
    for kind in ("none", "batch"):
        for arm, b in enumerate(2 ** i for i in range(4, top.bit_length())):
            steps = minimum + samples / b if power is None else 5e6 * (b / 16) ** power
            trials = [Trial(s, steps=9000, targets={0.05: None if b in censored and s < 4 else
                                                    round(steps * factor(s, arm) ** 0.3)})
                      for s in SEEDS]
            made.append(Cell({"norm.kind": kind, "train.batch": str(b)}, trials))
    return [experiment("steps_to_target", made)]


def noise_scale(average=900.0, growth=20.0, negative=False):
    def rows(seed):
        return [{"step": i, "small_batch": 128, "big_batch": 4096, "small_norm2": 2, "big_norm2": 1,
                 "gradient_norm2": (-1 if negative else 1) / (1 + i),
                 "noise": average * factor(seed, i) / (1 + i) * (1 + (growth - 1) * (i // 2) / 3)
                 / ((1 + growth) / 2)} for i in range(8)]
    return [experiment("noise_scale", [Cell({"norm.kind": "none"}, [
        Trial(s, tables={"noise_scale": rows(s)}) for s in SEEDS])])]


def rules(losses, rate=0.1, chosen=0.1, sqrt=None):
    """losses: of the linear rule at 512, 2,048 and 8,192; of the square-root rule too, or `sqrt`."""
    sizes = (128, 512, 2048, 8192)
    tuned = [Cell({"train.batch": str(b)}, [Trial(s, lr=chosen, finals=accuracies(97, s, 0))
                                            for s in SEEDS], TUNED) for b in sizes]
    ruled = []
    for rule, of_rule in (("linear", losses), ("sqrt", sqrt or losses)):
        for b, loss in zip(sizes, (0, *of_rule)):
            trials = [Trial(s, lr=rate, finals=accuracies(97 - (loss or 0), s, 1),
                            status="COMPLETE" if loss is not None else "DIVERGED") for s in SEEDS]
            ruled.append(Cell({"train.batch": str(b), "train.lr_rule": rule}, trials))
    return [experiment("b_by_m", tuned), experiment("lr_rule", ruled, train__warmup_steps="78")]


def deep(norm=1.45, plain=1.0, gain=-3.0, ragged=0.0):
    made = []
    for arm, (kind, layers) in enumerate((k, n) for k in ("none", "batch") for n in (4, 32)):
        growth = (norm if kind == "batch" else plain) ** 0.5
        level = 97 + gain if layers == 32 else 97
        trials = []
        for s in SEEDS:
            rows = [{"step": step, "layer": i, "name": str(i), "type": "Linear", "weight_norm": 1,
                     "gradient_norm": (growth * (1 + noise(s, arm) / 100)) ** (layers - i)
                     * (1 + ragged * (-1) ** i) * (9 if step else 1)
                     * (50 if i in (0, layers) else 1)}  # of other widths
                    for i in range(layers + 1) for step in (0, 100)]
            trials.append(Trial(s, finals=accuracies(level, s, arm), tables={"layers": rows}))
        made.append(Cell({"norm.kind": kind, "model.hidden": ",".join(["128"] * layers)}, trials,
                         TUNED))
    return [experiment("depth", made, model__init="he")]


def lr_tolerance(plain=1.0, norm=100.0, low_gain=0.0, layers=5):
    made = []
    for arm, (kind, edge) in enumerate((("none", plain), ("batch", norm))):
        for lr in (0.01, 0.1, 1, 10, 100, 1000):
            trials = [Trial(s, lr=lr, status="DIVERGED" if lr >= edge else "COMPLETE",
                            finals=accuracies(95 + low_gain * arm, s, arm)) for s in range(1, 7)]
            made.append(Cell({"norm.kind": kind, "train.lr": f"{lr:g}",
                              "model.hidden": ",".join(["128"] * layers)}, trials))
    return [experiment("lr_tolerance", made)]
