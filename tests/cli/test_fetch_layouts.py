"""launch/fetch_mnist.sh takes a named folder in the layouts that the trainer takes."""

import gzip
import os
import pathlib
import subprocess

import pytest

from support import idx

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "fetch_mnist.sh"


@pytest.mark.parametrize("layout", [
    lambda name: name.replace("-idx", ".idx"),
    lambda name: f"{name}.gz".replace("-idx", ".idx"),
    lambda name: f"{name.replace('-idx', '.idx')}/{name}",
    lambda name: f"MNIST/raw/{name}"], ids=["dots", "zipped dots", "Kaggle", "torchvision"])
def test_takes_the_layouts_that_the_trainer_takes(tmp_path, layout):
    truth = pathlib.Path(os.environ["SYNCBN_MNIST_DIR"])  # MNIST's four .gz files
    for name in idx.NAMES:
        path = tmp_path / layout(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = (truth / f"{name}.gz").read_bytes()
        path.write_bytes(body if path.suffix == ".gz" else gzip.decompress(body))
        (tmp_path / name).mkdir(exist_ok=True)  # no file
    environment = {**os.environ, "SYNCBN_MNIST_DIR": str(tmp_path), "SYNCBN_NO_FALLBACK": "1",
                   "SYNCBN_MNIST_MIRRORS": "http://127.0.0.1:9"}
    result = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=60, env=environment)
    assert (result.returncode, result.stdout) == (0, f"mnist {tmp_path}\n"), result.stderr
