"""A run that has ended, for the tests that resume it."""

import shutil

import pytest

from support import trainer
from support.resuming import BASE, CASES


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Not to be changed. It has kept its checkpoints of steps 7 and 14, and its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return trainer.train(folder, {**BASE, **CASES["sync"], "run.checkpoint_steps": 7,
                                  "run.keep_checkpoints": 3}, ranks=2)


@pytest.fixture
def copy(finished_run, tmp_path):
    """Its folder, to be changed."""
    return shutil.copytree(finished_run.folder, tmp_path / "copy")
