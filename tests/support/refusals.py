"""Runs that must be refused: all cases of a table at 1 and 2 ranks, a few at a time, since most
of a refusal is mpirun's own teardown."""

import concurrent.futures
import dataclasses
import statistics
import typing

import pytest

from support import trainer

LIMIT_S = 5
RANKS = (None, 2)  # one rank: without mpirun, whose teardown costs more than the refusal
AT_A_TIME = 6
OLD = {"config.ini": "an older run's", "metrics.csv": "an older run's"}


@dataclasses.dataclass(frozen=True)
class Case:
    """`words`: maps an empty folder, in which it may prepare files, to the command line. `says`:
    what the sentence must hold."""

    code: int
    says: tuple
    words: typing.Callable


@dataclasses.dataclass
class Refusal:
    case: Case
    ranks: int
    words: list
    result: trainer.Result
    left: dict  # the files of the run's folder afterwards

    def check(self):
        assert self.result.code == self.case.code, self.result.stderr
        sentence = self.result.sentence()
        assert sentence.startswith("syncbn-train: "), sentence
        missing = [part for part in self.case.says if part not in sentence]
        assert not missing, f"{missing} not in: {sentence}"
        assert self.result.stdout == ""
        assert self.left == OLD


def refuse(case, ranks, folder):
    """One refusal; --overwrite stands for a user who means it, and old files must still stay."""
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    for name, text in OLD.items():
        (out / name).write_text(text)
    words = [*case.words(scratch), "--overwrite", "--run.out", out]
    result = trainer.run(*words, ranks=ranks, timeout=60)
    left = {path.name: path.read_text() for path in out.iterdir()}
    return Refusal(case, ranks, words, result, left)


def check_slowest(refusals):
    """The refusal that took longest takes under 5 s alone, teardown included: median of three."""
    slowest = max(refusals, key=lambda refusal: refusal.result.seconds)
    seconds = [trainer.run(*slowest.words, ranks=slowest.ranks).seconds for _ in range(3)]
    assert statistics.median(seconds) < LIMIT_S, (slowest.words, seconds)


def refuse_all(cases, folder):
    """{(name, ranks): Refusal}"""
    keys = [(name, ranks) for name in cases for ranks in RANKS]
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        done = pool.map(lambda key: refuse(cases[key[0]], key[1],
                                           folder / f"{list(cases).index(key[0])}-{key[1]}"), keys)
        return dict(zip(keys, done))


def refusal_tests(cases):
    """A test class over `cases` (name: Case), for a module to give a name that pytest collects."""
    class Refusals:
        @pytest.fixture(scope="class")
        @classmethod
        def refusals(cls, tmp_path_factory):
            return refuse_all(cases, tmp_path_factory.mktemp("refusals"))

        @pytest.mark.parametrize("ranks", RANKS)
        @pytest.mark.parametrize("name", cases)
        def test_refuses(self, refusals, name, ranks):
            refusals[name, ranks].check()

        def test_refuses_in_time(self, refusals):
            check_slowest(refusals.values())

    return Refusals
