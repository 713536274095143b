"""Runs syncbn-train (or another program), under mpirun where ranks are asked for, and reads what it
leaves.

Programs are in the folder that SYNCBN_BUILD_DIR names.
"""

import configparser
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import time

import safetensors
import safetensors.torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ.get("SYNCBN_BUILD_DIR", ROOT / "build"))
PROGRAM = str(PROGRAMS / "syncbn-train")

# What a job on one shared machine needs: any number of ranks, bound to no core, one thread each.
ENVIRONMENT = {
    "OMPI_MCA_plm": "isolated", "OMPI_MCA_btl": "self,vader",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMPI_MCA_hwloc_base_binding_policy": "none", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1", "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
}
if os.geteuid() == 0:
    ENVIRONMENT |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@dataclasses.dataclass
class Result:
    code: int
    stdout: str
    stderr: str
    seconds: float

    def sentences(self):
        """The lines on stderr that are not mpirun's: it frames its own with dashes, or begins them
        with [host:pid]."""
        lines, framed = [], False
        for line in self.stderr.splitlines():
            if re.fullmatch(r"-{70,}", line):
                framed = not framed
            elif line.strip() and not framed and not re.match(r"\[[^\] ]+:\d+\] ", line):
                lines.append(line)
        return lines

    def sentence(self):
        """Our only line."""
        lines = self.sentences()
        assert len(lines) == 1, f"expected one line, found {self.stderr}"
        return lines[0]


def arguments(options):
    """{"train.batch": 64} as --train.batch=64."""
    return [f"--{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in options.items()]


def command(*words, ranks=None, timeout=120, program=PROGRAM):
    """`ranks` None: without mpirun. A list of lists: one rank with each list's further words."""
    program, mpirun = [program, *map(str, words)], ["mpirun", "--timeout", str(timeout)]
    if ranks is None:
        return program
    if isinstance(ranks, int):
        return [*mpirun, "-n", str(ranks), *program]
    contexts = [["-n", "1", *program, *map(str, own), ":"] for own in ranks]
    return [*mpirun, *itertools.chain.from_iterable(contexts)][:-1]


def environment(**changes):
    return {**os.environ, **ENVIRONMENT, **changes}


def start(*words, ranks=None, timeout=120, prefix=(), program=PROGRAM, **settings):
    """The running process; its stdout and stderr are pipes of text."""
    return subprocess.Popen([*prefix,
                             *command(*words, ranks=ranks, timeout=timeout, program=program)],
                            stdin=subprocess.DEVNULL, text=True,
                            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT,
                               "env": environment(), **settings})


def run(*words, timeout=120, **settings):
    started = time.monotonic()
    process = start(*words, timeout=timeout, **settings)
    stdout, stderr = process.communicate(timeout=timeout + 30)
    return Result(process.returncode, stdout, stderr, time.monotonic() - started)


class Run:
    """A run that ended well, with its files."""

    def __init__(self, result, folder):
        assert result.code == 0, result.stderr
        self.result, self.folder = result, pathlib.Path(folder)

    @property
    def rows(self):
        """metrics.csv as one dictionary of numbers per epoch; what was not measured is NaN."""
        with open(self.folder / "metrics.csv", newline="") as file:
            return [{name: float(value or "nan") for name, value in row.items()}
                    for row in csv.DictReader(file)]

    def column(self, name):
        return [row[name] for row in self.rows]

    @property
    def lines(self):
        text = (self.folder / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def metadata(self):
        return json.loads((self.folder / "metadata.json").read_text())

    @property
    def config(self):
        config = configparser.ConfigParser()
        config.read_string((self.folder / "config.ini").read_text())
        return config

    @property
    def state(self):
        return safetensors.torch.load_file(self.folder / "model.safetensors")


def train(folder, options, ranks=None, config=None, **settings):
    """Trains into `folder`, which must not hold a run yet."""
    words = [] if config is None else ["--config", ROOT / "configs" / config]
    words += arguments({**options, "run.out": folder})
    return Run(run(*words, ranks=ranks, **settings), folder)
