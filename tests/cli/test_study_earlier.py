"""What earlier versions wrote stays readable: a study of commit 10ac513 (tests/fixtures/10ac513) goes
on, and the report reads it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from support import study, trainer

FIXTURES = trainer.ROOT / "tests/fixtures/10ac513"
TRIALS = 2 * (2 + 2) + 6 * 2


def rounded(value):
    """Numbers to three digits, in tables and metadata alike."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    try:
        return pytest.approx(float(value), rel=1e-2, abs=1e-2)
    except (TypeError, ValueError):
        return value


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The fixture that was killed half-way, finished by today's program."""
    out = tmp_path_factory.mktemp("earlier") / "out"
    shutil.copytree(FIXTURES / "study_half", out)
    before = study.finished(out)
    assert 0 < len(before) < TRIALS
    result = study.run(FIXTURES / "study.ini", out)
    assert result.code == 0, result.stderr
    assert f"{TRIALS} trials, {TRIALS - len(before)} of them now" in result.stderr
    after = study.finished(out)
    assert {name: after[name] for name in before} == before, "what was there is not run again"
    return out


def test_a_study_of_10ac513_goes_on_to_the_results_of_one_that_was_not_stopped(finished):
    whole = FIXTURES / "study_whole"
    found, expected = study.results(finished), study.results(whole)
    assert set(found) == set(expected) and len(study.finished(finished)) == TRIALS
    kinds = {metadata["arithmetic"] for folder in (finished, whole)
             for metadata in study.finished(folder).values()}
    if len(kinds) == 1:  # the bits, on a processor of the fixture's kind
        assert found == expected
    else:
        assert found == rounded(expected)
    assert not list(finished.rglob(".lock")), "nor is a lock left that a killed rank held"
    recorded = json.loads((finished / "study.json").read_text())
    assert recorded == json.loads((FIXTURES / "study_half/study.json").read_text())


@pytest.mark.parametrize("change", ["more seeds", "another batch"])
def test_a_study_that_differs_is_refused_by_what_differs(tmp_path, change):
    out = tmp_path / "out"
    shutil.copytree(FIXTURES / "study_half", out)
    words, says = {"more seeds": (["--study.seeds", "1 .. 3"],
                                  "study.seeds is '1 .. 2', expected '1 .. 3' (in 8 cells)"),
                   "another batch": (["--measure.layers", "none"],
                                     "measure.layers is 'last', expected 'none' (in 8 cells)")}[change]
    result = study.run(FIXTURES / "study.ini", out, *words)
    assert result.code == 73, result.stderr
    assert f"holds another study: {says}; name another" in result.sentence()


def test_the_report_reads_it(finished):
    result = subprocess.run([sys.executable, "-m", "report", finished], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(trainer.ROOT / "src")})
    assert result.returncode == 0, result.stderr
    assert (finished / "report/index.html").stat().st_size > 0
