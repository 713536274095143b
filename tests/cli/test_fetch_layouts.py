"""launch/fetch_mnist.sh takes a named folder in the layouts that the trainer takes."""

import gzip
import os
import pathlib
import shutil
import subprocess

import pytest

from support import idx, trainer

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"


def place(folder, name, path, zipped):
    """MNIST's file of this name at another path."""
    body = (pathlib.Path(os.environ["SYNCBN_MNIST_DIR"]) / f"{name}.gz").read_bytes()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(body if zipped else gzip.decompress(body))


def fetch(folder):
    """Runs a copy of the script: the checkout's own data/mnist is none of its business."""
    copy = folder / "checkout/launch"
    copy.mkdir(parents=True)
    for name in ("fetch_mnist.sh", "setup.sh"):
        shutil.copy(LAUNCH / name, copy)
    environment = {**os.environ, "SYNCBN_MNIST_DIR": str(folder), "SYNCBN_NO_FALLBACK": "1",
                   "SYNCBN_MNIST_MIRRORS": "http://127.0.0.1:9"}
    return subprocess.run([copy / "fetch_mnist.sh"], capture_output=True, text=True, timeout=60,
                          env=environment)


@pytest.mark.parametrize(("layout", "zipped"), [
    (lambda name: name.replace("-idx", ".idx"), False),
    (lambda name: f"{name}.gz".replace("-idx", ".idx"), True),
    (lambda name: f"{name.replace('-idx', '.idx')}/{name}", False),
    (lambda name: f"MNIST/raw/{name}", False),
    (lambda name: f"raw/mnist-{name}.gz".replace("t10k", "test"), True),
    (lambda name: name, True),
    (lambda name: f"{name}.gz", False),
], ids=["dots", "zipped dots", "Kaggle", "torchvision", "EMNIST's way", "zipped as plain", "plain as zipped"])
def test_takes_the_layouts_that_the_trainer_takes(tmp_path, layout, zipped):
    for name in idx.NAMES:
        place(tmp_path, name, layout(name), zipped)
        if not (tmp_path / name).exists():
            (tmp_path / name).mkdir()  # no file
    result = fetch(tmp_path)
    assert (result.returncode, result.stdout) == (0, f"mnist {tmp_path}\n"), result.stderr
    loaded = trainer.run("--data.dir", tmp_path, "--dry-run")
    assert loaded.code == 0, loaded.stderr
    assert "published" not in loaded.stdout + loaded.stderr, "no note of other files"


def test_refuses_a_folder_of_which_the_trainer_might_take_another_file(tmp_path):
    for name in idx.NAMES:
        place(tmp_path, name, f"{name}.gz", zipped=True)
    idx.write_tiny(tmp_path)  # plain files, which come first
    result = fetch(tmp_path)
    assert result.returncode == 69
    assert f"{tmp_path / idx.NAMES[2]} is not the published file." in result.stderr
