"""What all Python tests share: the trainer's runs are in support/trainer.py, small data sets in
support/idx.py."""

import os
import pathlib

import pytest

from support import idx


def pytest_configure(config):
    config.addinivalue_line("markers", "nightly: too slow for every build; cmake/AddPytest.cmake")


@pytest.fixture(scope="session")
def mnist_dir():
    folder = pathlib.Path(os.environ.get("SYNCBN_MNIST_DIR", ""))
    assert all((folder / f"{name}.gz").is_file() for name in idx.NAMES), (
        f"set SYNCBN_MNIST_DIR to a folder with {', '.join(idx.NAMES)}, each with .gz behind it")
    return folder


@pytest.fixture(scope="session")
def small_mnist(mnist_dir, tmp_path_factory):
    """A folder with the first 1,000 training and 200 test images of MNIST: quick to load."""
    folder = tmp_path_factory.mktemp("small_mnist")
    for name, count in zip(idx.NAMES, [1000, 1000, 200, 200]):
        idx.write(folder / name, idx.read(mnist_dir / f"{name}.gz")[:count])
    return folder
