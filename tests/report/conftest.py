"""The report's package, src/report, and small studies with planted effects."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from report import results  # noqa: E402
from support.study_tree import write_study  # noqa: E402


@pytest.fixture
def study(tmp_path):
    """study(experiment, …): the results of these experiments, read back from their files."""
    def load(*experiments):
        folder = tmp_path / f"study{len(list(tmp_path.iterdir()))}"
        return results.load([write_study(folder, list(experiments))])
    return load
