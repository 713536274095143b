"""Rows of the table of faults: what makes one, and the runs that they disturb."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import subprocess
import tempfile
import time
import typing

from support import trainer
from support.signalled import Job, alive

ENDLESS = {"data.name": "synthetic", "data.limit": 301, "model.hidden": "12,9", "train.batch": 48,
           "train.epochs": 1000000, "run.checkpoint_steps": 3, "model.dropout": 0.2}
SOON_S = 5
BUILD = trainer.PROGRAMS


@dataclasses.dataclass
class Row:
    name: str
    fault: str
    expected: str
    check: typing.Callable  # takes an empty folder; returns what was found, or fails an assertion


ROWS = []


def row(name, fault, expected):
    def add(check):
        ROWS.append(Row(name, fault, expected, check))
        return check
    return add


class LeftOut(Exception):
    """What a row needs that this machine does not have."""


def needs_namespace(kind):
    """`kind` is "net" or "mount"."""
    if subprocess.run(["unshare", f"--{kind}", "true"], check=False, capture_output=True).returncode != 0:
        raise LeftOut(f"no {kind} namespace can be made here")


def in_suite(name, fault, expected, *tests, namespace=None):
    """A row whose fault is injected by tests of the suite, named as ctest names them."""
    def check(_):
        if namespace:
            needs_namespace(namespace)
        for test in tests:
            expect_passes(test)
        return "ctest: " + ", ".join(tests)
    ROWS.append(Row(name, fault, expected, check))


@functools.cache
def expect_passes(test):
    """Once, however many rows name it; with a log of its own, since ctest may be what runs this table."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "CTestTestfile.cmake").write_text(f'subdirs("{BUILD.resolve()}")\n')
        result = subprocess.run(["ctest", "--test-dir", folder, "-R", f"^{test}$", "--output-on-failure",
                                 "--no-tests=error"], text=True, capture_output=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-2000:]


# ---- runs that are disturbed, and the undisturbed ones ----

def endless(folder, ranks=2, **options):
    """An endless run, once it has saved."""
    known = set(folder.glob("checkpoints/*"))
    return Job(ranks, lambda _: set(folder.glob("checkpoints/step-*.safetensors")) - known,
               {**ENDLESS, "run.out": folder, **options}, "--resume", "--config=configs/smoke.ini")


def model_hash(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def last_step(folder):
    return max(int(path.stem.split("-")[1]) for path in folder.glob("checkpoints/step-*.safetensors"))


def finish_and_compare(folder, scratch, ranks):
    """Ends the run an epoch after its newest checkpoint, to the bits and rows of an undisturbed one."""
    options = {**ENDLESS, "train.epochs": last_step(folder) // 7 + 2}
    result = trainer.run(*trainer.arguments({**options, "run.out": folder}), "--resume", ranks=ranks,
                         timeout=300)
    assert result.code == 0, result.stderr
    run = trainer.Run(result, folder)
    whole = trainer.train(scratch / "whole", options, ranks=1, config="smoke.ini", timeout=300)
    assert model_hash(folder) == model_hash(whole.folder), "other bits than the undisturbed run"
    assert run.column("train_loss") == whole.column("train_loss"), "other rows than the undisturbed run"
    assert not list(folder.rglob("*.tmp-*")), "a temporary file is left"


def ended(job, code, within=SOON_S):
    found, stderr, seconds = job.end()
    assert found == code, f"code {found}: {stderr[-1500:]}"
    assert seconds < within, f"{seconds:.1f} s"
    return f"{found} in {seconds:.1f} s", stderr


def abandoned():
    """Shared memory that no process holds, and session folders whose mpirun is gone; other jobs may run meanwhile."""
    maps = ""
    for path in pathlib.Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            maps += path.read_text()
    segments = [path for path in pathlib.Path("/dev/shm").iterdir() if f"{path}\n" not in maps]
    sessions = [path for path in pathlib.Path(tempfile.gettempdir()).glob("ompi.*/pid.*")
                if not alive(int(path.suffix[1:]))]
    return {str(path) for path in segments + sessions}


def expect_nothing_left(before):
    """More than `before`. What another job leaves for a moment is looked at again."""
    deadline = time.monotonic() + SOON_S
    while left := abandoned() - before:
        assert time.monotonic() < deadline, f"left: {left}"
        time.sleep(0.1)
