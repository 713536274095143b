"""--self-check: what it says on this machine, and what it refuses."""

import re

from support import trainer

SMALL = ["--self-check", "--model.hidden=12,9", "--train.batch=48"]


def digests(result):
    return re.findall(r"\b[0-9a-f]{16}\b", result.stderr)


def test_the_same_digest_whatever_the_ranks(tmp_path):
    one = trainer.run(*SMALL, ranks=1, cwd=tmp_path)
    assert one.code == 0, one.stderr
    assert "run with mpirun -n 2 or more" in one.stderr
    three = trainer.run(*SMALL, ranks=3, cwd=tmp_path)
    assert three.code == 0, three.stderr
    assert "canonical holds: the same bits" in three.stderr
    assert len(digests(one)) == 1 and len(digests(three)) == 3
    assert set(digests(one)) == set(digests(three))
    assert re.search(r"us a step, [\d.]+ times that of run.reduce = fast", three.stderr)
    assert not list(tmp_path.iterdir()), "it writes no file"


def test_more_ranks_than_shards_are_refused(tmp_path):
    result = trainer.run(*SMALL, "--run.shards=2", ranks=3, cwd=tmp_path)
    assert result.code == 64
    assert "run.shards" in result.stderr and "3 ranks" in result.stderr
