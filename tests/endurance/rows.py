"""Rows of the table of faults: what makes one, and the runs that they disturb."""

import dataclasses
import hashlib
import subprocess
import typing

from support import trainer
from support.signalled import Job

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


def in_suite(name, fault, expected, *tests):
    """A row whose fault is injected by tests of the suite, named as ctest names them."""
    def check(_):
        for test in tests:
            listed = subprocess.run(["ctest", "--test-dir", BUILD, "-N", "-R", f"^{test}$"], text=True,
                                    capture_output=True, check=False).stdout
            assert "Total Tests: 0" not in listed, f"there is no test {test}"
            result = subprocess.run(["ctest", "--test-dir", BUILD, "-R", f"^{test}$", "--output-on-failure"],
                                    text=True, capture_output=True, check=False)
            assert result.returncode == 0, result.stdout[-2000:]
        return "ctest: " + ", ".join(tests)
    ROWS.append(Row(name, fault, expected, check))


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
