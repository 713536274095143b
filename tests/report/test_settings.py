"""What trials ran with: budgets, versions, and how busy they kept their ranks."""

import pytest

from report import settings
from report.results import load
from support.study_tree import Cell, Experiment, Trial, write_study


def test_ranks_are_busy_as_trials_say_themselves(tmp_path):
    """Trials of one second start a second apart, on one of two ranks; a killed study has no
    ledger, and one that there is adds nothing."""
    made = Experiment("one", [Cell({}, [Trial(s) for s in (1, 2, 3, 4)])])
    folder = write_study(tmp_path / "study", [made])
    for _ in range(2):
        results = load([folder])
        assert settings.busy(results, results.studies[0]).startswith("50%")
        (folder / "ledger.csv").unlink(missing_ok=True)


def test_a_study_without_times_says_so(study):
    results = study(Experiment("one", [Cell({}, [], planned=2)]))
    assert settings.busy(results, results.studies[0]) == "not known: no trial says when it ran"


@pytest.mark.parametrize("intervals, told", [
    # (first rank, ranks, from, to), on a study whose first job had two ranks
    ([(0, 1, 0, 100), (1, 1, 0, 60), (1, 1, 60, 80)], "90%"),
    ([(0, 2, 0, 100), (0, 1, 5000, 5100), (1, 1, 5000, 5100)], "100%"),
    ([(0, 1, 0, 100), (1, 1, 60, 100), (0, 1, 130, 230)], "60%"),
    ([(0, 1, 0, 100), (1, 1, 0, 100), (0, 1, 5000, 9000)], "not known: not all jobs had the 2"),
    ([(0, 2, 0, 100), (0, 4, 5000, 5100)], "not known: not all jobs had the 2 ranks of the first"),
    ([(0, 1, 0, 100), (0, 1, 50, 150)], "not known: two jobs ran at once"),
    ([(0, 2, 0, 100), (1, 1, 50, 60)], "not known: two jobs ran at once"),
    ([(0, 1, 0, 100)], "50%")])
def test_ranks_are_busy_while_any_trial_runs(study, intervals, told):
    """After a pause as if there had been none; unless jobs had other ranks or ran at once."""
    trials = [Trial(seed, metadata={"first_rank": first, "ranks": ranks, "started": 1e9 + start,
                                    "finished": 1e9 + end})
              for seed, (first, ranks, start, end) in enumerate(intervals, 1)]
    results = study(Experiment("one", [Cell({}, trials)]))
    assert settings.busy(results, results.studies[0]).startswith(told)


@pytest.mark.parametrize("options, study_options, criterion, budget, stops", [
    ({"train.epochs": "3"}, {}, "not tuned", "3 epochs", "not known"),
    ({"train.epochs": "20", "train.max_steps": "200"}, {"study.stop": "none"}, "not tuned",
     "20 epochs, at most 200 steps", "at the end of the budget"),
    ({"train.epochs": "200"}, {"study.stop": "plateau"}, "validation accuracy", "200 epochs",
     "after 10 epochs without a lower training loss")])
def test_each_experiment_says_its_budget_and_criterion(
        study, options, study_options, criterion, budget, stops):
    rates = [] if criterion == "not tuned" else [0.1]
    made = Experiment("one", [Cell({}, [Trial(1)])], options=options, study=study_options,
                      tune_lr=rates)
    table = settings.budgets(study(made))
    assert table.rows == [["one", criterion, budget, stops]]


def test_budgets_that_vary_are_all_named(study):
    made = Experiment("one", [Cell({"train.epochs": e}, [Trial(1)]) for e in ("50", "1600")])
    assert settings.budgets(study(made)).rows[0][2] == "50 epochs; 1,600 epochs"


def recorded(study, *versions):
    trials = [Trial(s, metadata=each) for s, each in enumerate(versions, 1)]
    results = study(Experiment("one", [Cell({}, trials)]))
    return settings.trial_versions(results, results.studies[0])


NEW = {"versions": {"syncbn": "1.1", "libtorch": "2.11.0"}, "arithmetic": {"maker": "AMD"}}


def test_trials_of_one_version_are_one_column(study):
    table = recorded(study, NEW, NEW)
    assert table.columns == ["", "2 trials"] and settings.differing(table) == []
    assert table.rows == [["syncbn", "1.1"], ["libtorch", "2.11.0"], ["arithmetic: maker", "AMD"]]


def test_arithmetic_may_be_a_text(study):
    text = {**NEW, "arithmetic": "AMD, AVX2"}
    table = recorded(study, text, {**NEW, "arithmetic": "Intel, AVX512"})
    assert table.rows[-1][0] == "arithmetic" and settings.differing(table) == ["arithmetic"]


def test_trials_of_several_versions_are_named(study):
    other = {**NEW, "versions": {**NEW["versions"], "syncbn": "1.0"}}
    table = recorded(study, NEW, other, NEW)
    assert table.columns == ["", "2 trials", "1 trial"]
    assert table.rows[0] == ["syncbn", "1.1", "1.0"]
    assert settings.differing(table) == ["syncbn"]


def test_older_studies_recorded_no_versions_of_trials(study):
    assert recorded(study, {}, {}) is None and settings.differing(None) == []
    table = recorded(study, NEW, {})
    assert "not recorded" in table.rows[0] and len(settings.differing(table)) == 3
