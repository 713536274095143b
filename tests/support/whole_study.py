"""A small study that holds data for every figure of the report, with effects that are known."""

from __future__ import annotations

import math
from pathlib import Path

from support.study_tree import METRICS, Cell, Experiment, Trial, tuning, write_study

SEEDS = (1, 2, 3)
MIN_STEPS, MIN_SAMPLES = 60, 60_000  # of the hyperbola that steps to target follow


def jitter(seed: int, size: float) -> float:
    return size * (seed - 2)


def norm(kind: str, batch: object = "global") -> dict[str, str]:
    return {"norm.kind": kind, "norm.batch": str(batch)}


ARMS = (norm("none"), norm("batch", 32), norm("batch"))


def accuracies(value: float) -> dict[str, float]:
    return {metric: value for metric in METRICS if metric.endswith("accuracy")}


def steps_to_target() -> Experiment:
    """B = 2048 without batch norm is censored; the chosen rate at B = 16 is at the grid's edge."""
    cells = []
    for arm, speed in zip(ARMS, (1.3, 1.0, 0.9)):
        for batch in (16, 32, 128, 512, 2048):
            if arm["norm.batch"] == "32" and batch < 32:
                continue
            steps = speed * (MIN_STEPS + MIN_SAMPLES / batch)
            best = min(0.4, 0.02 * math.sqrt(batch / 16))
            rates = {best / 2: 0.95, best: 0.97, best * 2: None if batch > 500 else 0.96}
            censored = batch == 2048 and arm["norm.kind"] == "none"
            finals = [Trial(seed, lr=best, steps=2 * int(steps), targets={
                0.03: None if censored and seed > 1 else round(steps + jitter(seed, steps / 30))})
                for seed in SEEDS]
            tunes = [Trial(101, "tune", lr=lr, finals=accuracies(value or 0.1),
                           status="COMPLETE" if value else "DIVERGED")
                     for lr, value in rates.items()]
            cells.append(Cell({"train.batch": str(batch), **arm}, finals + tunes,
                              tuning(rates, best, "low" if batch == 16 else "none")))
    return Experiment("steps_to_target", cells, title="Steps to target",
                      tune_lr=sorted({t.lr for c in cells for t in c.trials if t.stage == "tune"}))


def m_sweep() -> Experiment:
    """Error falls as 1/M; batch statistics do not help at large M. LN is flat."""
    cells = []
    for m in (2, 4, 8, 16, 32, 64, 128):
        trials = []
        for seed in SEEDS:
            running = 0.975 - 0.08 / m + jitter(seed, 0.001)
            finals = {"val_running_accuracy": running, "val_recomputed_accuracy": running + 0.0005,
                      "val_batch_accuracy": 0.972 - 0.04 / m + jitter(seed, 0.001),
                      "train_batch_accuracy": 0.99 - 0.06 / m + jitter(seed, 0.0005)}
            law = [{"layer": layer, "m": n, "draws": 200,
                    "mean_noise": (1 + jitter(seed, 0.03)) / n, "mean_noise_theory": 1 / n,
                    "variance_noise": 2.5 * (1 - jitter(seed, 0.04)) / n,
                    "variance_noise_theory": 2.5 / n}
                   for layer in (1, 4) for n in (2, 8, 32, 128)] if m == 128 else []
            trials.append(Trial(seed, finals=finals, tables={"noise_law": law} if law else {}))
        cells.append(Cell(norm("batch", m), trials))
    cells.append(Cell(norm("layer"), [Trial(s, finals=accuracies(0.972)) for s in SEEDS]))
    return Experiment("m_sweep", cells, title="Small groups at B = 128")


def b_by_m() -> Experiment:
    cells = [Cell({"train.batch": str(b), **norm("batch", m)},
                  [Trial(s, lr=0.1, finals=accuracies(0.98 - 0.1 / m - b / 50_000)) for s in SEEDS],
                  tuning({0.05: 0.95, 0.1: 0.97}, 0.1, "high" if m == 4 else "none"))
             for b in (32, 128, 512) for m in (4, 8, 32, 128, 512) if m <= b]
    return Experiment("b_by_m", cells, title="B by M")


def lr_tolerance() -> Experiment:
    """Half of the trials diverge at 0.5 without, and at 8 with batch norm."""
    cells = []
    for arm, edge in ((norm("none"), 0.5), (norm("batch"), 8.0)):
        for lr in (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16):
            cells.append(Cell({"train.lr": f"{lr:g}", **arm}, [
                Trial(s, lr=lr, finals=accuracies(0.96), status="DIVERGED"
                      if lr > edge or (lr == edge and s > 1) else "COMPLETE") for s in SEEDS]))
    return Experiment("lr_tolerance", cells, title="Tolerance of the learning rate")


def one_axis(name: str, key: str, values: tuple, effect, **settings: str) -> Experiment:
    """Final accuracy effect(value, is batch norm), along one axis, with and without batch norm."""
    cells = [Cell({key: str(value), **arm}, [
        Trial(s, finals=accuracies(effect(value, arm["norm.kind"] == "batch") + jitter(s, 0.002)))
        for s in SEEDS]) for arm in (ARMS[0], ARMS[2]) for value in values]
    return Experiment(name, cells, options=settings, title=name.replace("_", " "))


def curve(seed: int, speed: float, epochs: int, per_epoch: int, **more) -> list[dict]:
    """Rows of measurements.csv: light ones, and a full one per epoch."""
    rows = []
    for i in range(1, epochs * per_epoch + 1):
        epoch = i / per_epoch
        accuracy = 0.98 - 0.3 * math.exp(-speed * epoch) + jitter(seed, 0.002)
        loss = 0.06 + 1.2 * math.exp(-speed * epoch) * (1 + jitter(seed, 0.05))
        row = {"step": i * 100, "epoch": epoch, "samples": i * 6400, "seconds": i * 0.04, "lr": 0.1,
               "met_loss": loss * 0.9, "val_running_accuracy": accuracy, "val_running_loss": loss}
        if i % per_epoch == 0:
            row = {m: accuracy if m.endswith("accuracy") else loss for m in METRICS} | row
            row["val_recomputed_accuracy"] = accuracy + more.get("recomputed", 0.0)
        rows.append(row)
    return rows


def notebook(name: str) -> Experiment:
    def trial(seed: int, speed: float) -> Trial:
        return Trial(seed, tables={"measurements": curve(seed, speed, 5, 4)})
    cells = [Cell({"norm.kind": kind}, [trial(s, speed) for s in SEEDS])
             for kind, speed in (("none", 0.9), ("batch", 1.6))]
    return Experiment(name, cells, title="The notebook: with and without batch norm")


def notebook_batches(name: str = "notebook_output_norm_batches") -> Experiment:
    cells = [Cell({"train.batch": str(b)}, [
        Trial(s, finals=accuracies(0.98 - b / 12_800 + jitter(s, 0.001)) | {
            "train_running_loss": 0.05 + b / 2000},
              cost={"step_s": 2e-4 + b * 1e-6, "peak_tensor_bytes": 3_000_000 + 20_000 * b})
        for s in SEEDS]) for b in (16, 32, 64, 128)]
    return Experiment(name, cells, title="Batch sizes of the notebook")


def ledger(seed: int) -> list[dict]:
    """Rows of layers.csv of two norm layers, 1 and 4, behind linear layers 0 and 3. Running
    statistics come closer as 1/step; the noise of variances is theory's."""
    rows = []
    for step in (100, 200, 400, 800, 1600):
        for layer, kurtosis in ((1, 3.0), (4, 4.0)):
            shift = 1 + jitter(seed, 0.05)
            rows.append({"step": step, "layer": layer - 1, "name": str(layer - 1), "type": "Linear",
                         "weight_norm": 10 + layer, "gradient_norm": 0.1,
                         "effective_lr": 1e-3 * layer * shift * (step / 100) ** -0.2})
            rows.append({"step": step, "layer": layer, "name": str(layer), "type": "BatchNorm1d",
                         "weight_norm": 8, "gradient_norm": 0.1, "m": 128,
                         "mean_noise": shift * (1 + layer / 50) / 128, "mean_noise_theory": 1 / 128,
                         "variance_noise": shift * (kurtosis - 1) / 128,
                         "variance_noise_theory": (kurtosis - 1) / 128, "kurtosis": kurtosis,
                         "shard_noise": shift / (7 + layer),
                         "shard_variance_noise": shift * (kurtosis - 1) / (7 + layer),
                         "initial_weight": 0.9 ** (step / 100),
                         "running_mean_gap": 20 * layer * shift / step,
                         "running_variance_gap": -10 * layer * shift / step,
                         "dead": 0.01 * layer * math.log10(step) + jitter(seed, 0.002),
                         "gain_median": (1 - layer / 10) * shift,
                         "gain_p99": 1.3 * shift + layer * step / 4000,
                         "group_gradient_median": 0.1, "group_gradient_p99": 0.2})
    return rows


def evaluation() -> Experiment:
    cells = [Cell({"norm.momentum": momentum}, [
        Trial(s, tables={"measurements": curve(s, 1.0, 8, 2, recomputed=0.004),
                         "layers": ledger(s)}) for s in SEEDS])
        for momentum in ("0.1", "0.01")]
    return Experiment("evaluation", cells, title="Evaluation statistics")


def noise_scale() -> Experiment:
    def rows(seed: int, scale: float) -> list[dict]:
        return [{"step": step, "small_batch": 128, "big_batch": 1024, "small_norm2": 2.0,
                 "big_norm2": 1.2, "gradient_norm2": 1.0, "noise": scale * step**0.5 * (
                     1 + jitter(seed, 0.1))} for step in (10, 30, 100, 300, 1000)]
    cells = [Cell(arm, [Trial(s, tables={"noise_scale": rows(s, scale)}) for s in SEEDS])
             for arm, scale in ((ARMS[0], 30.0), (ARMS[2], 18.0))]
    return Experiment("noise_scale", cells, title="Gradient noise scale")


def units() -> Experiment:
    def rows(drift: float) -> list[dict]:
        return [{"step": step, "unit": unit, "p15": unit + drift * step / 1000 - 1,
                 "p50": unit + drift * step / 1000, "p85": unit + drift * step / 1000 + 1}
                for step in range(0, 2001, 250) for unit in (0, 1, 2)]
    cells = [Cell(arm, [Trial(s, tables={"units": rows(drift)}) for s in SEEDS])
             for arm, drift in ((ARMS[0], 3.0), (ARMS[2], 0.3))]
    return Experiment("ioffe_equal", cells, title="Ioffe and Szegedy's network")


def sent(ranks: int, batch_norm: bool) -> dict[str, int]:
    """Per step and rank: on one rank nothing."""
    norm, gradient = (int(on and ranks > 1) for on in (batch_norm, True))
    return {"norm_bytes": 4096 * norm, "norm_calls": 4 * norm,
            "gradient_bytes": 409_600 * gradient, "gradient_calls": 2 * gradient}


def cost() -> Experiment:
    """Two ranks take 0.6 of one rank's time, and pay for communication."""
    cells = []
    for arm, share in ((ARMS[0], 1.0), (ARMS[2], 1.15)):
        for ranks in (1, 2):
            for batch in (32, 128, 512):
                step = share * (1e-4 + batch * 2e-6) * (1 if ranks == 1 else 0.6)
                whole = step * 1000  # seconds of all steps of a trial
                parts = {"data_s": whole * 0.05, "forward_s": whole * 0.3,
                         "backward_s": whole * 0.5, "norm_comm_s": whole * 0.05 * (share > 1),
                         "optimizer_s": whole * 0.05,
                         "gradient_comm_s": whole * 0.05 * (ranks - 1), "step_s": step}
                memory = int((2e6 + 1e4 * batch) * share)
                cells.append(Cell({"study.ranks": str(ranks), "train.batch": str(batch), **arm}, [
                    Trial(s, cost=parts | {"peak_tensor_bytes": memory} | sent(ranks, share > 1),
                          metadata={"ranks": ranks}) for s in SEEDS]))
    return Experiment("cost", cells, title="Cost of a step")


def optimizers() -> Experiment:
    """Two momenta of SGD, as a paired axis."""
    pairs = [{"train.optimizer": name, "train.momentum": momentum}
             for name, momentum in (("sgd", "0"), ("sgd", "0.9"), ("adam", "0.9"))]
    cells = [Cell({**pair, **arm}, [
        Trial(s, finals=accuracies((0.975 if arm["norm.kind"] == "batch" else 0.97) + 0.001 * i
                                   + jitter(s, 0.0005))) for s in SEEDS])
        for arm in (ARMS[0], ARMS[2]) for i, pair in enumerate(pairs)]
    axes = [{"keys": list(pairs[0]), "values": [list(pair.values()) for pair in pairs]},
            {"keys": list(ARMS[0]), "values": [list(ARMS[0].values()), list(ARMS[2].values())]}]
    return Experiment("optimizers", cells, axes=axes, title="Optimizers")


def experiments() -> list[Experiment]:
    return [
        steps_to_target(), m_sweep(), b_by_m(), lr_tolerance(), evaluation(), noise_scale(), cost(),
        notebook("notebook_adam"), notebook_batches(), units(),
        one_axis("init_scale", "model.init_std", (0.001, 0.01, 0.1, 1.0),
                 lambda std, bn: 0.97 if bn else 0.97 - 0.1 * abs(math.log10(std) + 1)),
        one_axis("dropout", "model.dropout", (0, 0.2, 0.5),
                 lambda p, bn: 0.97 + (0.004 if bn else 0.006 * p)),
        one_axis("depth", "model.hidden", ("128,128", "128,128,128,128", ",".join(["128"] * 8)),
                 lambda h, bn: 0.97 if bn else 0.97 - 0.02 * h.count(",")),
        optimizers(),
    ]


def write(folder: Path) -> Path:
    return write_study(folder, experiments(), title="Every figure once",
                       command="mpirun -n 2 build/syncbn-study --config whole.ini")
