"""What a step costs, in figures and tables."""

import pytest

from report import figures, tables
from report.figures import cost
from report.results import load
from support import whole_study
from support.study_tree import Cell, Experiment, Trial
from support.whole_study import SEEDS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load([whole_study.write(tmp_path_factory.mktemp("tables") / "study-whole")])


def test_cost_is_in_readable_units(results):
    frame = cost.cost_frame(results)
    row = frame[(frame["arm"] == "BN M=B") & (frame["B"] == 512) & (frame["ranks"] == 2)].iloc[0]
    assert row["step_ms"] == pytest.approx(0.6 * 1.15 * (1e-4 + 512 * 2e-6) * 1e3)
    assert row["memory_mib"] == pytest.approx(1.15 * (2e6 + 512e4) / 2**20, rel=1e-6)
    assert row["norm_kib"] == 4


def test_the_stack_of_a_step_is_over_ranks(results):
    plots = dict(cost.step_time_plots(cost.step_time_frame(results)))
    plot = plots["cost · train.batch = 128"]
    bars = {t.name: dict(zip(t.x, t.y)) for t in plot.data if t.type == "bar"}
    step = 1.15 * (1e-4 + 128 * 2e-6) * 1e3
    assert bars["norm communication"]["BN M=B<br>2 ranks"] == pytest.approx(step * 0.6 * 0.05)
    assert bars["gradient communication"]["none<br>1 rank"] == 0
    [seeds] = [t for t in plot.data if t.type == "scatter"]
    assert len(seeds.x) == 4 * len(SEEDS)


def test_what_is_sent_is_of_gradients_and_of_batch_norm_apart(results):
    plots = dict(cost.sent_plots(cost.sent_frame(results)))
    for unit, what, plain, norm in (
            ("KiB", "for gradients", 400, 400), ("KiB", "for batch norm", 0, 4),
            ("calls", "for gradients", 2, 2), ("calls", "for batch norm", 0, 4)):
        [plot] = [plot for heading, plot in plots.items()
                  if heading.startswith(f"cost · train.batch = 128 · {unit}") and what in heading]
        bars = {t.name: dict(zip(t.x, t.y)) for t in plot.data if t.type == "bar"}
        assert bars[what] == {"none<br>2 ranks": plain, "BN M=B<br>2 ranks": norm}
    table = tables.cost_tables(results)[1]
    rows = {tuple(row[1:4]): dict(zip(table.columns, row)) for row in table.rows}
    assert rows["BN M=B", "128", "2"]["KiB for batch norm"] == "4"
    assert rows["BN M=B", "128", "2"]["calls for gradients"] == "2"
    assert rows["BN M=B", "128", "1"]["KiB for gradients"] == "nothing"
    assert rows["none", "32", "1"]["step (ms)"] == "0.164"


def test_on_one_rank_nothing_is_sent(study):
    """The report says so, and shows no 0."""
    cells = [Cell({"train.batch": str(b)}, [Trial(1, cost=whole_study.sent(1, True))])
             for b in (16, 64)]
    results = study(Experiment("cost", cells))
    assert "fig-sent" in {kind.id for kind in figures.build(results)[1]}
    [table] = tables.cost_tables(results)
    assert "on which nothing is sent" in table.note
    assert not any("KiB" in column for column in table.columns)


def test_ranks_alone_are_enough_to_show_a_step(study):
    """One batch size, as in cost_ranks; another experiment, on one rank, is not mixed in."""
    cells = [Cell({"study.ranks": str(ranks), "norm.kind": kind}, [
        Trial(s, cost=whole_study.sent(ranks, kind == "batch"), metadata={"ranks": ranks})
        for s in SEEDS]) for ranks in (1, 2) for kind in ("none", "batch")]
    plain = [Cell({"train.batch": str(b)}, [Trial(1)]) for b in (16, 64)]
    results = study(Experiment("cost_ranks", cells), Experiment("cost", plain))
    [(heading, plot)] = cost.step_time_plots(cost.step_time_frame(results))
    assert heading == "cost_ranks" and list(plot.data[0].x) == [
        f"{arm}<br>{ranks}" for arm in ("none", "BN M=B") for ranks in ("1 rank", "2 ranks")]
    assert [heading for heading, _ in cost.sent_plots(cost.sent_frame(results))] == [
        "cost_ranks · KiB for gradients", "cost_ranks · KiB for batch norm",
        "cost_ranks · calls for gradients and for batch norm"]
    assert len(tables.cost_tables(results)) == 2
