"""The data of the figures, on studies whose effects are known."""

import math

import numpy as np
import pytest

from report import evidence, figures, statistics
from report.figures import conditions, drawing, layers, noise, scaling
from report.results import load
from support import whole_study
from support.study_tree import Cell, Experiment, Trial, write_study
from support.whole_study import SEEDS, jitter


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load([whole_study.write(tmp_path_factory.mktemp("figures") / "study-whole")])


def study(folder, *experiments):
    return load([write_study(folder / "study", list(experiments))])


def series(plot, name):
    """x and y of the line of a name that the legend shows."""
    found = [t for t in plot.data if t.name == name and t.showlegend is not False]
    assert len(found) == 1, [t.name for t in plot.data]
    return list(found[0].x), list(found[0].y)


@pytest.mark.parametrize("low, high", [(6.5, 8.4), (1, 1.01), (30, 110), (5, 60), (0.01, 50)])
def test_a_logarithmic_axis_has_ticks_within_its_data(low, high):
    ticks = drawing.axis_layout(drawing.Axis("MiB", log=10), [low, high])["tickvals"]
    assert 2 <= sum(low <= tick * (1 + 1e-9) and tick <= high * (1 + 1e-9) for tick in ticks) <= 8


def test_every_figure_is_made_of_a_study_that_has_all(results):
    made, absent = figures.build(results)
    assert [kind.id for kind in absent] == []
    assert [figure.kind.id for figure in made] == [kind.id for kind in figures.ORDER]
    for figure in made:
        for heading, plot in figure.plots:
            assert len(plot.data) > 0, (figure.kind.id, heading)


def test_no_figure_is_made_of_a_study_that_has_none(tmp_path):
    made, absent = figures.build(study(tmp_path, Experiment("one", [Cell({}, [Trial(1)])])))
    assert made == [] and len(absent) == len(figures.ORDER)


def test_steps_are_medians_and_the_slope_is_minus_one(results):
    [(heading, plot)] = scaling.steps_plots(scaling.targets_frame(results))
    assert heading == "steps_to_target · validation error ≤ 3 %"
    x, y = series(plot, "BN M=32")
    assert x == [32, 128, 512, 2048]
    assert y == [60 + 60_000 // 32, 60 + 469, 60 + 117, 60 + 29]
    x, y = series(plot, "slope −1: perfect scaling")
    assert np.ptp(np.array(x) * np.array(y)) < 1e-6


def test_a_median_that_was_not_reached_is_no_point_and_seeds_stay(results):
    [(_, plot)] = scaling.steps_plots(scaling.targets_frame(results))
    x, _ = series(plot, "none")
    assert x == [16, 32, 128, 512], "two of three seeds did not reach it at 2048"
    [censored] = [t for t in plot.data if t.marker.symbol == "triangle-up-open"]
    assert list(censored.x) == [2048, 2048]
    assert list(censored.y) == [2 * int(1.3 * (60 + 60_000 / 2048))] * 2, "drawn at the budget"


def test_medians_count_a_diverged_trial_as_the_verdicts_do(tmp_path):
    """One of five diverged early, another after it had been at the target."""
    def trials(steps):
        lost = [Trial(4, status="DIVERGED", steps=10, targets={0.05: None}),
                Trial(5, status="DIVERGED", steps=steps, targets={0.05: 10})]
        return [Trial(s, targets={0.05: steps + 10 * s}) for s in (1, 2, 3)] + lost
    sizes = {16: 4000, 64: 1000, 256: 300, 1024: 200}
    results = study(tmp_path, Experiment("steps_to_target", [
        Cell({"train.batch": str(b), "norm.kind": "none"}, trials(steps),
             whole_study.tuning({0.1: 0.9}, 0.1)) for b, steps in sizes.items()], tune_lr=[0.1]))
    judged = {b: evidence.median_to_target(rows).value for b, rows in
              evidence.targets_of(results, "steps_to_target").groupby("B")}
    assert judged == {b: steps + 30 for b, steps in sizes.items()}, "the third of five"
    [(_, plot)] = scaling.steps_plots(scaling.targets_frame(results))
    assert dict(zip(*series(plot, "none"))) == judged
    [(_, plot)] = scaling.seconds_plots(scaling.targets_frame(results))
    assert dict(zip(*series(plot, "none"))) == pytest.approx(
        {b: steps * 4e-4 for b, steps in judged.items()})
    drawn = scaling.hyperbola_frame(results)
    fit = statistics.hyperbola(list(judged), list(judged.values()))
    assert drawn["critical_batch"].iloc[0] == fit.critical_batch.value and len(drawn) == 12


def test_keys_that_move_with_the_batch_size_split_no_line(tmp_path):
    sizes = {"16": "2", "64": "3", "256": "6"}
    cells = [Cell({"train.batch": batch, "train.epochs": epochs},
                  [Trial(1, targets={0.05: 3200 // int(batch)})],
                  whole_study.tuning({0.1: 0.9}, 0.1)) for batch, epochs in sizes.items()]
    axes = [{"keys": ["train.batch", "train.epochs"], "values": [list(p) for p in sizes.items()]}]
    results = study(tmp_path, Experiment("steps", cells, axes=axes, tune_lr=[0.1]))
    [(heading, plot)] = scaling.steps_plots(scaling.targets_frame(results))
    assert heading == "steps · validation error ≤ 5 %"
    assert series(plot, "BN M=B") == ([16, 64, 256], [200, 50, 12])


def test_what_never_happened_is_not_drawn(tmp_path):
    """No seed reaches the target, no rate diverges; and one rate for all batches compares none."""
    def cells(key, targets, tuned):
        return [Cell({key: str(value)}, [Trial(1, lr=value / 100, targets=targets)],
                     whole_study.tuning({0.1: 0.9}, 0.1) if tuned else None)
                for value in (16, 32, 64)]
    results = study(tmp_path, Experiment("missed", cells("train.batch", {0.03: None}, True)),
                    Experiment("untuned", cells("train.batch", {0.03: 100}, False)),
                    Experiment("rates", cells("train.lr", {}, False)))
    assert not scaling.targets_frame(results)["reached"].any()
    absent = {kind.id for kind in figures.build(results)[1]}
    assert {"fig-steps", "fig-hyperbola", "fig-seconds", "fig-divergence"} <= absent


def test_a_rate_at_the_edge_is_an_open_marker(results):
    [(_, plot)] = scaling.steps_plots(scaling.targets_frame(results))
    [line] = [t for t in plot.data if t.name == "none" and t.mode == "lines+markers"]
    assert list(line.marker.symbol) == ["circle-open", "circle", "circle", "circle"]
    made, _ = figures.build(results)
    flagged = {figure.kind.id for figure in made if figure.at_edge}
    assert {"fig-steps", "fig-lr", "fig-heatmap", "fig-seconds"} <= flagged
    assert "fig-init" not in flagged


def test_the_hyperbola_is_found_again(results):
    frame = scaling.hyperbola_frame(results)
    fitted = frame.drop_duplicates("arm").set_index("arm")
    for arm, speed in (("none", 1.3), ("BN M=32", 1.0), ("BN M=B", 0.9)):
        row = fitted.loc[arm]
        assert row["min_steps"] == pytest.approx(speed * 60, rel=0.02)
        assert row["min_samples"] == pytest.approx(speed * 60_000, rel=0.02)
        assert row["critical_batch"] == pytest.approx(1000, rel=0.03)
        assert row["r2"] > 0.999


def test_neighbours_and_final_trials_are_fresh_seeds_of_a_tuning_curve(tmp_path):
    trials = [Trial(s, stage, lr, finals={"val_running_accuracy": level + s / 1000})
              for stage, lr, level in (
                  ("final", 0.2, 0.96), ("near", 0.1, 0.95), ("near", 0.4, 0.97)) for s in SEEDS]
    lost = Trial(4, "near", 0.4, status="DIVERGED")
    cell = Cell({"norm.kind": "batch"}, [*trials, lost, Trial(101, "tune", 0.2)],
                whole_study.tuning({0.1: 0.9, 0.2: 0.92, 0.4: 0.91}, 0.2))
    frame = scaling.rates_frame(study(tmp_path, Experiment("one", [cell])))
    [(_, plot)] = scaling.curves_plots(frame)
    crosses, legend = (t for t in plot.data if t.marker.symbol == "x-thin")
    assert legend.name == "fresh seeds" and list(legend.x) == [None]
    assert list(zip(crosses.x, np.round(crosses.y, 3))) == [
        (lr, round(level + s / 1000, 3)) for lr, level in ((0.1, 0.95), (0.2, 0.96), (0.4, 0.97))
        for s in SEEDS]


def test_the_best_rate_follows_the_square_root(results):
    frame = scaling.best_rates_frame(results)
    assert frame["chosen"].all() and set(frame["B"]) == {16, 32, 128, 512, 2048}
    assert np.allclose(frame["lr"], 0.02 * np.sqrt(frame["B"] / 16))
    [(_, plot)] = scaling.best_rates_plots(frame)
    x, y = series(plot, "slope ½: square root")
    assert np.allclose(y, 0.02 * np.sqrt(np.array(x) / 16))


def test_divergence_is_a_fraction_of_trials(results):
    [(_, plot)] = scaling.divergence_plots(scaling.divergence_frame(results))
    x, y = series(plot, "none")
    assert dict(zip(x, y))[0.25] == 0 and dict(zip(x, y))[1] == 1
    assert dict(zip(x, y))[0.5] == pytest.approx(2 / 3)
    x, y = series(plot, "BN M=B")
    assert dict(zip(x, y))[4] == 0 and dict(zip(x, y))[16] == 1


def test_error_against_m_has_three_ways_of_evaluating(results):
    frame = noise.error_m_frame(results)
    rows = frame[(frame["experiment"] == "m_sweep") & (frame["M"] == 4)]
    medians = rows.groupby("evaluation")["error"].median()
    assert medians["validation, running statistics"] == pytest.approx(0.025 + 0.08 / 4)
    assert medians["validation, batch statistics"] == pytest.approx(0.028 + 0.04 / 4)
    assert medians["training, batch statistics"] == pytest.approx(0.01 + 0.06 / 4)
    plot = dict(noise.error_m_plots(frame))["m_sweep · B = 128"]
    assert series(plot, "LN: validation")[1] == pytest.approx([0.028, 0.028])


def test_what_a_figure_is_not_of(results, tmp_path):
    """Fewer than three M at one B, other seeds than the first, a rate that is swept, two points."""
    assert "steps_to_target" not in set(noise.error_m_frame(results)["experiment"])
    assert set(noise.units_frame(results)["seed"]) == {1}
    swept = [Cell({"model.dropout": p, "train.lr": lr}, [Trial(1, lr=float(lr))])
             for p in ("0", "0.5") for lr in ("0.1", "0.2")]
    short = [Cell({"norm.kind": kind}, [Trial(1, tables={"measurements": [
        {"step": step, "epoch": step, "val_running_accuracy": 0.9} for step in (1, 2)]})])
        for kind in ("none", "batch")]
    other = study(tmp_path, Experiment("swept", swept), Experiment("short", short))
    assert conditions.dropout_frame(other).empty and conditions.curves_frame(other).empty


def test_the_heat_map_prints_the_rate_and_its_edge(results):
    frame = noise.heatmap_frame(results)
    cell = frame[(frame["B"] == 128) & (frame["M"] == 4)].iloc[0]
    assert cell["error"] == pytest.approx(0.02 + 0.1 / 4 + 128 / 50_000)
    assert (cell["seeds"], cell["lr"], cell["edge"]) == (3, 0.1, "high")
    [(_, plot)] = noise.heatmap_plots(frame)
    texts = dict(zip(plot.data[0].y, plot.data[0].text))
    assert texts["B = 128"][0] == "<b>4.76%</b><br>0.1 *"
    assert texts["B = 128"][1].endswith("0.1")
    assert texts["B = 32"][4] == "", "M above B does not exist"


def test_the_noise_law_lies_on_its_theory(results):
    for _, plot in noise.noise_law_plots(noise.noise_law_frame(results)):
        measured, theory = series(plot, "layer 1"), series(plot, "theory")
        assert measured[0] == theory[0] == [2, 8, 32, 128]
        assert measured[1] == pytest.approx(theory[1], rel=1e-6)


def test_each_quantity_of_the_norm_layers_has_its_course(results):
    frame = layers.layers_frame(results)
    plots = dict(layers.layers_plots(frame))
    networks = [f"evaluation · norm.momentum = {momentum} · BN M=B" for momentum in ("0.1", "0.01")]
    assert list(plots) == [f"{network} · {quantity.title}" for network in networks
                           for quantity in layers.COURSES]
    of = {quantity.title: plots[f"{networks[0]} · {quantity.title}"] for quantity in layers.COURSES}
    steps = [100, 200, 400, 800, 1600]
    x, y = series(of["noise of the batch variance"], "layer 4")
    assert x == steps and y == pytest.approx([3 / 128] * 5)
    assert series(of["noise of the batch variance"], "theory")[1] == pytest.approx([2 / 128] * 5)
    assert series(of["noise of the batch mean"], "theory")[1] == pytest.approx([1 / 128] * 5)
    assert series(of["variance between the means of shards"], "layer 1")[1] == [0.125] * 5
    between = of["variance between the variances of shards"]
    assert series(between, "layer 4")[1] == pytest.approx([3 / 11] * 5)
    first = of["weight of the first values in the running statistics"]
    assert series(first, "layer 1")[1] == pytest.approx([0.9, 0.9**2, 0.9**4, 0.9**8, 0.9**16])
    assert series(of["running mean against the population's"], "layer 1")[1] == pytest.approx(
        [20 / step for step in steps])
    assert series(of["running variance against the population's"], "layer 4")[1] == pytest.approx(
        [-40 / step for step in steps])
    assert series(of["dead units"], "layer 4")[1][0] == pytest.approx(0.08)
    gain = of["backward gain of a unit"]
    assert series(gain, "layer 1, median")[1] == pytest.approx([0.9] * 5)
    assert series(gain, "layer 1, 99 %")[1][-1] == pytest.approx(1.7)
    lines = {t.name: t.line for t in gain.data if t.showlegend is not False}
    assert lines["layer 1, median"].color == lines["layer 1, 99 %"].color
    assert lines["layer 1, median"].dash != lines["layer 1, 99 %"].dash


def test_a_norm_layer_has_the_learning_rate_of_the_weights_before_it(results):
    frame = layers.layers_frame(results)
    at = frame[(frame["step"] == 100) & (frame["seed"] == 2)].groupby("layer")["effective_lr"]
    assert at.first().to_dict() == pytest.approx({1: 1e-3, 4: 4e-3})


def test_seeds_of_the_norm_layers_are_lines_of_their_own(results):
    plot = layers.layers_plots(layers.layers_frame(results))[0][1]
    [seeds] = [t for t in plot.data if t.name == "layer 1" and t.showlegend is False]
    assert set(seeds.customdata) == set(SEEDS) and len(seeds.x) == 6 * len(SEEDS)
    assert seeds.opacity < 0.5


def of_depth(depth, steps):
    rows = [{"step": step, "layer": layer, "name": str(layer), "type": "BatchNorm1d", "dead": 0.1}
            for step in steps for layer in range(1, depth + 1)]
    return Trial(1, tables={"layers": rows})


def test_of_a_deep_network_a_few_layers_are_drawn_and_all_are_kept(tmp_path):
    cells = [Cell({"model.hidden": ",".join(["128"] * depth)}, [of_depth(depth, (0, 1, 2))])
             for depth in (2, 3, 32)]
    frame = layers.layers_frame(study(tmp_path, Experiment("depth", cells)))
    assert frame.groupby("cell")["layer"].nunique().max() == 32
    plots = layers.layers_plots(frame)
    assert [heading.split(" · ")[1] for heading, _ in plots] == [
        "model.hidden = 128,128", "model.hidden = 128 × 32", "model.hidden = 128 × 3"]
    drawn = [trace.name for trace in plots[1][1].data if trace.showlegend is not False]
    assert drawn == ["layer 1", "layer 11", "layer 22", "layer 32"]


def test_layers_measured_at_the_end_alone_have_no_course(tmp_path):
    results = study(tmp_path, Experiment("m_sweep", [Cell({}, [of_depth(2, (10, 20))])]))
    assert layers.layers_frame(results).empty


def test_the_noise_scale_is_smoothed_in_both_parts_first(tmp_path):
    rows = [{"step": step, "small_batch": 1, "big_batch": 2, "small_norm2": 0, "big_norm2": 0,
             "gradient_norm2": signal, "noise": 100.0}
            for step, signal in ((1, 1.0), (2, 3.0), (3, -1.0))]
    cell = Cell({"norm.kind": "none"}, [Trial(1, tables={"noise_scale": rows})])
    frame = noise.noise_scale_frame(study(tmp_path, Experiment("gns", [cell])))
    assert list(frame["noise_scale"]) == pytest.approx([100, 100, 100]), "of means, 100 over 1"


def test_evaluation_compares_statistics_of_the_same_networks(results):
    frame = noise.evaluation_frame(results)
    assert set(frame["experiment"]) == {"evaluation", "notebook_adam"}
    assert "none" not in set(frame["arm"])
    rows = frame[frame["experiment"] == "evaluation"]
    assert np.allclose(rows["val_recomputed_accuracy"] - rows["val_running_accuracy"], 0.004)


def test_curves_are_of_experiments_in_which_only_the_norm_varies(results):
    frame = conditions.curves_frame(results)
    assert set(frame["experiment"]) == {"notebook_adam"}
    assert set(frame["arm"]) == {"none", "BN M=B"}
    training = frame[(frame["quantity"] == "accuracy") & (frame["of"] == "training")]
    assert sorted(training["epoch"].unique()) == [1, 2, 3, 4, 5], "full evaluations alone have it"
    validation = frame[(frame["quantity"] == "loss") & (frame["of"] == "validation")]
    at_one = validation[(validation["epoch"] == 1) & (validation["arm"] == "BN M=B")]["value"]
    assert at_one.median() == pytest.approx(0.06 + 1.2 * math.exp(-1.6))


def test_depth_counts_hidden_layers(results):
    [(_, plot)] = conditions.depth_plots(conditions.depth_frame(results))
    assert series(plot, "none") == ([2, 4, 8], pytest.approx([0.95, 0.91, 0.83]))


def test_optimizers_are_told_apart_by_what_varies_with_them(results):
    [(_, plot)] = conditions.optimizers_plots(conditions.optimizers_frame(results))
    x, y = series(plot, "none")
    assert dict(zip(x, y)) == pytest.approx(
        {"sgd<br>momentum 0": 0.97, "sgd<br>momentum 0.9": 0.971, "adam<br>momentum 0.9": 0.972})


def test_facets_keep_other_axes_apart(tmp_path):
    cells = [Cell({"model.dropout": p, "model.hidden": hidden, "norm.kind": "none"},
                  [Trial(s, finals=whole_study.accuracies(accuracy)) for s in SEEDS])
             for hidden, accuracy in (("128,128", 0.9), ("128," * 4 + "128", 0.8))
             for p in ("0", "0.5")]
    frame = conditions.dropout_frame(study(tmp_path, Experiment("dropout", cells)))
    plots = conditions.dropout_plots(frame)
    assert [heading for heading, _ in plots] == [
        "dropout · model.hidden = 128,128", "dropout · model.hidden = 128 × 5"]
    assert series(plots[1][1], "none")[1] == pytest.approx([0.8, 0.8])


def test_seeds_are_points(results):
    [(_, plot)] = conditions.dropout_plots(conditions.dropout_frame(results))
    [points] = [t for t in plot.data if t.name == "BN M=B" and t.mode == "markers"]
    assert sorted(set(np.round(points.y, 6))) == pytest.approx(
        [0.974 + jitter(s, 0.002) for s in SEEDS])
    assert sorted(set(points.customdata)) == [1, 2, 3]
