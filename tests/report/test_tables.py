"""The tables of the page, on trials whose every value is known."""

import pytest

from report import settings, tables
from report.results import load
from support import whole_study
from support.study_tree import Cell, Experiment, Trial, tuning, write_study


@pytest.fixture
def one(tmp_path):
    def read(*cells, name="one", **options):
        folder = tmp_path / f"study{len(list(tmp_path.iterdir()))}"
        return load([write_study(folder, [Experiment(
            name, list(cells), options={k.replace("__", "."): v for k, v in options.items()})])])
    return read


def column(table, name):
    return [row[table.columns.index(name)].replace("\N{NO-BREAK SPACE}", " ") for row in table.rows]


def test_the_training_loss_is_that_of_the_last_epoch(one):
    rows = [{"step": step, "epoch": step / 100, "met_loss": loss, "val_running_accuracy": 0.9,
             "val_recomputed_accuracy": 0.9}
            for step, loss in ((50, 9.0), (100, 7.0), (150, 0.4), (200, 0.2))]
    results = one(*(Cell({"train.batch": b}, [Trial(1, tables={"measurements": rows})])
                    for b in ("16", "32")))
    [table] = tables.batch_tables(results)
    assert column(table, "training loss, last epoch") == ["0.3000", "0.3000"]


def test_the_notebooks_table_stands_beside_ours(tmp_path):
    results = load([write_study(tmp_path / "study", [whole_study.notebook_batches()])])
    [table] = tables.batch_tables(results)
    rows = {row[0]: dict(zip(table.columns, row)) for row in table.rows}
    assert list(rows) == ["16", "32", "64", "128"]
    ours = rows["64"]["validation accuracy"].replace("\N{NO-BREAK SPACE}", " ")
    assert ours == "97.50 ± 0.10 %"
    assert rows["64"]["printed accuracy"] == "95.62 %" and rows["64"]["printed loss"] == "0.1942"


def test_a_table_of_batch_sizes_varies_nothing_else(one):
    results = one(*(Cell({"train.batch": "16", "model.dropout": p}, [Trial(1)])
                    for p in ("0", "0.5")))
    assert tables.batch_tables(results) == []


def test_a_table_of_batch_sizes_has_accuracy_loss_time_and_memory(one):
    [table] = tables.batch_tables(one(*(Cell({"train.batch": b}, [
        Trial(s, finals={"train_running_accuracy": 0.98 + s / 1000, "val_running_accuracy": 0.97},
              cost={"peak_tensor_bytes": 3 * 2**20}) for s in (1, 2, 3)]) for b in ("16", "32"))))
    assert column(table, "training accuracy") == ["98.20 ± 0.10 %"] * 2
    assert column(table, "validation accuracy") == ["97.00 ± 0.00 %"] * 2
    assert column(table, "memory (MiB)") == ["3", "3"]
    assert column(table, "seconds") == ["0.4 ± 0.0"] * 2


def test_a_table_of_batch_sizes_counts_what_diverged(one):
    trials = [Trial(1, finals={"val_running_accuracy": 0.97}),
              Trial(2, status="DIVERGED", finals={"val_running_accuracy": 0.1})]
    [table] = tables.batch_tables(one(*(Cell({"train.batch": b}, trials) for b in ("16", "32"))))
    assert column(table, "validation accuracy") == ["97.00 %"] * 2
    assert column(table, "seeds") == ["2, 1 diverged"] * 2


def test_the_gap_is_split_in_three_parts_that_add_up(one):
    """Errors of 1 and 3 % in training under population and batch statistics, 7 and 15 % in
    validation under batch and population statistics."""
    finals = {"train_recomputed_accuracy": 0.99, "train_batch_accuracy": 0.97,
              "val_batch_accuracy": 0.93, "val_recomputed_accuracy": 0.85,
              "val_running_accuracy": 0.5, "train_running_accuracy": 0.5}
    results = one(Cell({"norm.kind": "batch", "norm.batch": "4"}, [Trial(1, finals=finals)]),
                  Cell({"norm.kind": "none", "norm.batch": "global"}, [Trial(1)]))
    [table] = tables.gap_tables(results)
    [row] = table.rows
    parts = [value.replace("\N{NO-BREAK SPACE}", " ") for value in row[2:7]]
    assert parts == ["1.00 %", "2.00 pt", "4.00 pt", "8.00 pt", "15.00 %"]
    assert row[:2] == ["128", "4"] and "Wu and Johnson" in table.note
    unmeasured = one(Cell({"train.batch": "16"}, [Trial(1, status="DIVERGED", finals={
        "train_batch_accuracy": ""})]))
    assert tables.gap_tables(unmeasured) == []


def paired(tmp_path, keys, errors):
    """Cells along one axis of these keys, by their values, each of one validation error in %."""
    cells = [Cell(dict(zip(keys, values)), [
        Trial(seed, finals={"val_recomputed_accuracy": 1 - error / 100}) for seed in (1, 2)])
        for values, error in errors.items()]
    axes = [{"keys": list(keys), "values": [list(values) for values in errors]}]
    return load([write_study(tmp_path / "study", [Experiment("hoffer", cells, axes=axes)])])


def test_arms_of_one_batch_size_have_gaps_of_their_own(tmp_path):
    """As in the shipped study of Hoffer's ladder."""
    keys = ("train.batch", "norm.batch", "train.lr_rule", "train.epochs")
    arms = {("128", "128", "none", "50"): 1, ("4096", "4096", "none", "50"): 2,
            ("4096", "4096", "sqrt", "50"): 4, ("4096", "4096", "sqrt", "1600"): 8}
    [table] = tables.gap_tables(paired(tmp_path, keys, arms))
    told = dict(zip(column(table, "setting"), column(table, "validation error")))
    assert told == {f"train.lr_rule = {rule}, train.epochs = {epochs}": error for
                    rule, epochs, error in (("none", "50", "2.00 ± 0.00 %"),
                                            ("sqrt", "50", "4.00 ± 0.00 %"),
                                            ("sqrt", "1600", "8.00 ± 0.00 %"))}
    assert column(table, "seeds") == ["2"] * 4


def test_arms_of_one_m_have_gaps_of_their_own(one):
    """Groups of 32 and the whole batch are the same at B = 32, and no twice as many seeds."""
    results = one(*(Cell({"train.batch": b, "norm.batch": m}, [Trial(1), Trial(2)])
                    for b in ("32", "64") for m in ("32", "global")))
    [table] = tables.gap_tables(results)
    told = zip(column(table, "setting"), column(table, "B"), column(table, "M"))
    groups, whole = "norm.batch = 32", "norm.batch = global"
    assert list(told) == [(groups, "32", "32"), (groups, "64", "32"), (whole, "32", "32"),
                          (whole, "64", "64")]
    assert column(table, "seeds") == ["2"] * 4


def test_what_moves_with_the_batch_size_is_no_setting_of_a_gap(tmp_path):
    sizes = {("16", "2"): 1, ("64", "3"): 2}
    [table] = tables.gap_tables(paired(tmp_path, ("train.batch", "train.epochs"), sizes))
    assert table.columns[0] == "B" and column(table, "B") == ["16", "64"]


def test_a_rate_at_the_edge_is_marked(one):
    results = one(*(Cell({"train.batch": b}, [Trial(1)], tuning({0.1: 0.9}, 0.1, edge))
                    for b, edge in (("16", "low"), ("32", "none"))))
    [table] = tables.batch_tables(results)
    assert column(table, "learning rate") == ["0.1" + tables.AT_EDGE, "0.1"]


def test_cost_is_of_the_median_step(one):
    trials = [Trial(seed, cost={"step_s": seconds, "norm_bytes": 2048}, metadata={"ranks": 2})
              for seed, seconds in ((1, 1e-3), (2, 2e-3), (3, 9e-3))]
    cells = [Cell({"train.batch": b}, trials) for b in ("16", "100")]
    table, sent = tables.cost_tables(one(*cells))
    assert column(table, "step (ms)") == ["2", "2"]
    assert column(table, "samples/s") == ["8,000", "50,000"]
    assert column(sent, "KiB for batch norm") == ["2", "2"]


def test_settings_are_what_all_share_and_what_varies(one):
    results = one(*(Cell({"train.batch": b}, [Trial(1), Trial(2)]) for b in ("16", "32")),
                  model__activation="tanh")
    [part] = settings.settings(results)
    assert dict(part.common)["model.activation"] == "tanh"
    assert "train.batch" not in dict(part.common)
    assert column(part.trials, "train.batch") == ["16", "16", "32", "32"]
    assert "run.seed" not in part.trials.columns


def test_divergence_and_gaps_are_counted(one):
    results = one(Cell({"train.batch": "16"}, [
        Trial(1), Trial(2, status="DIVERGED"), Trial(3, status="DIVERGED")], planned=5))
    assert column(tables.divergences(results), "trials") == ["2"]
    assert column(tables.divergences(results), "the first of them") == ["the loss is not finite"]
    assert (column(tables.missing(results), "planned"),
            column(tables.missing(results), "found")) == (["5"], ["3"])


def test_cells_that_wait_for_more_ranks_are_not_missing(one):
    """The study had two; what has begun on more ranks counts as any other."""
    results = one(Cell({"train.batch": "16"}, [], planned=5, ranks=4),
                  Cell({"train.batch": "32"}, [Trial(1)], planned=2, ranks=4),
                  Cell({"train.batch": "64"}, [], planned=3, ranks=2))
    assert column(tables.missing(results), "cell") == ["train.batch=32", "train.batch=64"]
    table = tables.waiting(results)
    assert column(table, "cell") == ["train.batch=16"] and column(table, "planned") == ["5"]
    assert column(table, "waits for") == ["mpirun -n 4"]


def accuracy(value, **named):
    return [Trial(s, finals={"test_running_accuracy": value}, **named) for s in (1, 2)]


def printed(results):
    table = tables.published_table(results)
    return dict(zip(column(table, "what"), column(table, "ours")))


def test_the_papers_net_is_held_against_its_own_batch(one):
    cells = [Cell({"norm.kind": kind, "norm.batch": m}, accuracy(value))
             for kind, m, value in (("none", "global", 0.95), ("batch", "global", 0.97),
                                    ("batch", "30", 0.5))]
    ours = printed(one(*cells, name="ioffe_tuned", train__batch="60"))
    assert ours["test accuracy with batch norm, B = 60"].startswith("97.00")
    assert ours["test accuracy without, B = 60"].startswith("95.00")


def test_hoffers_arms_are_told_apart(one):
    arms = {("128", "128", "none", "50"): 0.98, ("4096", "4096", "none", "50"): 0.90,
            ("4096", "4096", "sqrt", "50"): 0.91, ("4096", "128", "sqrt", "50"): 0.92,
            ("4096", "4096", "sqrt", "1600"): 0.93}
    keys = ("train.batch", "norm.batch", "train.lr_rule", "train.epochs")
    ours = printed(one(*(Cell(dict(zip(keys, arm)), accuracy(value))
                         for arm, value in arms.items()), name="hoffer"))
    assert [value[:5] for value in ours.values()] == ["98.00", "90.00", "91.00", "92.00", "93.00"]
