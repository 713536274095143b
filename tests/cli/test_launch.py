"""The launch scripts on machines that lack something: one sentence, a code, and nothing half done.

Each test runs the real scripts from a copy of launch/ in a temporary folder, with a PATH that holds
every system command except those that a test takes away or replaces.
"""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Rank 0 has its say and ends the job; the first rank to end with a code would have the others killed.
PROBE_TRAINER = """#!/bin/bash
if [[ ${OMPI_COMM_WORLD_RANK:-0} == 0 ]]; then
  echo "ranks=$OMPI_COMM_WORLD_SIZE threads=$OMP_NUM_THREADS args=$*"
  cat
else
  sleep 60
fi
exit 75
"""

METRICS_TRAINER = """#!/bin/bash
[[ ${OMPI_COMM_WORLD_RANK:-0} == 0 ]] || exit 0
args="$*"
while (($#)); do [[ $1 != --run.out ]] || out=$2; shift; done
mkdir "$out"
echo "$args" >"$out/args"
echo "epoch,step,samples,seconds,extra,train_loss,train_accuracy,test_loss,test_accuracy" >"$out/metrics.csv"
echo "1,468,59904,2,0,0.5,0.9,0.4,0.91" >>"$out/metrics.csv"
echo "2,936,119808,4,0,0.25,0.95,0.125,0.975" >>"$out/metrics.csv"
"""


class Machine:
    """A checkout and a PATH of its own."""

    def __init__(self, folder):
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        shutil.copy(ROOT / "CMakePresets.json", self.checkout)
        (self.checkout / "configs").mkdir()
        (self.checkout / "configs" / "main.ini").write_text("[train]\nepochs = 1\n")
        self.bin.mkdir()
        for directory in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
            for tool in Path(directory).iterdir():
                if not (self.bin / tool.name).is_symlink():
                    (self.bin / tool.name).symlink_to(tool)

    def lacks(self, *tools):
        for tool in tools:
            (self.bin / tool).unlink(missing_ok=True)

    def has(self, tool, script):
        """Replaces a command (a bare name) or adds a program of the checkout (a path)."""
        path = self.bin / tool if "/" not in tool else self.checkout / tool
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script if script.startswith("#!") else f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def has_no_packages_missing(self):
        self.has("dpkg-query", 'shift 3; printf "installed %s\\n" "$@"')

    def run(self, script, *arguments, **environment):
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SYNCBN_", "OMP_", "OMPI_", "PIP_"))
        }
        return subprocess.run(
            [self.checkout / script, *map(str, arguments)],
            env={**kept, "PATH": str(self.bin), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def assert_refused(result, code, *parts):
    """The script ended with this code; its last line is a sentence that says all the parts."""
    assert result.returncode == code, result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in sentence
    assert "unbound variable" not in result.stderr


# run_local.sh: bad input


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ([], 64, ["-n must be a number of ranks", "usage:"]),
        (["-n", "2"], 64, ["no configuration file", "usage:"]),
        (["-n", "2", "--"], 64, ["no configuration file", "usage:"]),
        (["-n", "2", "--", "--train.lr", "1"], 64, ["no configuration file", "usage:"]),
        (["-n", "0", "configs/main.ini"], 64, ["-n must be", "found '0'"]),
        (["-n", "-1", "configs/main.ini"], 64, ["-n must be", "found '-1'"]),
        (["-n", "two", "configs/main.ini"], 64, ["-n must be", "found 'two'"]),
        (["-n"], 64, ["-n needs a value", "usage:"]),
        (["-x"], 64, ["unknown option -x", "usage:"]),
        (["-n", "2", "-t", "soon", "configs/main.ini"], 64, ["-t must be", "'soon'"]),
        (["-n", "2", "nowhere.ini"], 66, ["'nowhere.ini'", "not a readable file"]),
        (["-n", "2", "/"], 66, ["'/'", "not a readable file"]),
    ],
)
def test_run_local_refuses(machine, arguments, code, parts):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    arguments = [str(machine.checkout / a) if a.endswith("main.ini") else a for a in arguments]
    assert_refused(machine.run("launch/run_local.sh", *arguments), code, *parts)


def test_run_local_without_program(machine):
    config = machine.checkout / "configs/main.ini"
    result = machine.run("launch/run_local.sh", "-n", 2, config)
    assert_refused(result, 69, "syncbn-train is not built", "launch/setup.sh")


def test_run_local_without_mpirun(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.lacks("mpirun")
    result = machine.run("launch/run_local.sh", "-n", 2, machine.checkout / "configs/main.ini")
    assert_refused(result, 69, "mpirun is not on PATH", "launch/setup.sh")


def test_run_local_gpus_where_there_is_none(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("nvidia-smi", "exit 9")
    result = machine.run("launch/run_local.sh", "-n", "gpus", machine.checkout / "configs/main.ini")
    assert_refused(result, 64, "-n must be", "found '0'")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 4), ("2,3", 2), ("1", 1), ("0,1,7,2", 2), ("0,-1,2", 1), ("GPU-8f6a, GPU-11b2", 2),
     ("08", 0), ("", 0), ("NoDevFiles", 0)],
)
def test_run_local_starts_a_rank_for_each_gpu_that_is_visible(machine, visible, expected):
    """As CUDA reads the list: it ends at the first entry that is no GPU."""
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("nvidia-smi", "for i in 0 1 2 3; do echo \"GPU $i: H200 (UUID: GPU-$i)\"; done")
    visible = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    config = machine.checkout / "configs/main.ini"
    result = machine.run("launch/run_local.sh", "-n", "gpus", config, **visible)
    if expected == 0:
        assert_refused(result, 64, "-n must be", "found '0'")
    else:
        assert f"mpirun -n {expected} " in result.stderr, result.stderr


# run_local.sh: what it runs


def test_run_local_runs_the_job(machine):
    """More ranks than cores, no ssh, whoever is user: the job starts, and its code comes through."""
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.lacks("ssh", "rsh")
    config = machine.checkout / "configs/main.ini"
    ranks = os.cpu_count() + 1
    result = machine.run("launch/run_local.sh", "-n", ranks, "--", config, "--train.lr", "1 2")
    assert result.returncode == 75, result.stderr
    assert f"ranks={ranks} threads=1 args=--config {config} --train.lr 1 2\n" in result.stdout
    assert f"mpirun -n {ranks} " in result.stderr


def test_run_local_threads(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("nproc", '[[ -z ${OMP_NUM_THREADS:-} ]] && echo 12 || echo "$OMP_NUM_THREADS"')
    config = machine.checkout / "configs/main.ini"
    shared_out = machine.run("launch/run_local.sh", "-n", 2, config)
    assert "ranks=2 threads=6 " in shared_out.stdout
    kept = machine.run("launch/run_local.sh", "-n", 2, config, OMP_NUM_THREADS="3")
    assert "ranks=2 threads=3 " in kept.stdout


def test_run_local_warns_of_full_folders(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("df", 'printf "Filesystem 1M-blocks Used Available\\nx 64 61 3 95%% %s\\n" "$2"')
    result = machine.run("launch/run_local.sh", "-n", 2, machine.checkout / "configs/main.ini")
    assert result.returncode == 75
    assert "/dev/shm has 3 MiB free" in result.stderr
    assert "TMPDIR" in result.stderr


@pytest.mark.parametrize(
    ("trainer", "code"),
    [
        ("[[ $OMPI_COMM_WORLD_RANK != 0 ]] || exit 70; exec sleep 40", 70),  # one rank fails
        ("exec sleep 40", 110),  # none does, but the time is up
    ],
)
def test_run_local_ends_what_is_left(machine, trainer, code):
    """No rank is left waiting, whatever grace mpirun has for stragglers."""
    machine.has("build/syncbn-train", trainer)
    config = machine.checkout / "configs/main.ini"
    started = time.monotonic()
    result = machine.run("launch/run_local.sh", "-n", 2, "-t", 5, config)
    assert result.returncode == code
    assert time.monotonic() - started < 15


# setup.sh: what a machine may lack


def test_setup_without_sudo(machine):
    machine.has("id", "echo 1000")
    machine.lacks("sudo")
    machine.has("dpkg-query", 'shift 3; printf "installed %s\\n" "$@" | grep -v ninja')
    result = machine.run("launch/setup.sh")
    assert_refused(
        result, 69, "no sudo", "apt-get install -y --no-install-recommends ninja-build"
    )
    assert "cmake" not in result.stderr  # what is installed is not asked for


def test_setup_when_sudo_refuses(machine):
    machine.has("id", "echo 1000")
    machine.has("sudo", "exit 1")
    machine.has("dpkg-query", "exit 1")
    result = machine.run("launch/setup.sh")
    assert_refused(result, 69, "sudo refuses", "apt-get install", " g++ cmake ", " curl ")


def test_setup_installs_only_what_is_missing(machine, tmp_path):
    machine.has("id", "echo 0")
    machine.has("dpkg-query", 'shift 3; printf "installed %s\\n" "$@" | grep -v -e cmake -e zlib')
    machine.has("apt-get", f'echo "$@" >>{tmp_path}/apt; [[ $* != *install* ]]')
    result = machine.run("launch/setup.sh")
    calls = (tmp_path / "apt").read_text().splitlines()
    assert calls[0].endswith(" update")
    assert calls[1].endswith(" install --no-install-recommends cmake zlib1g-dev")
    assert_refused(result, 69, "apt-get failed", "mirror", "cmake zlib1g-dev", "log")


def test_setup_with_wrong_python(machine):
    machine.has_no_packages_missing()
    machine.has("python3.9", 'echo "Python 3.9.2"; [[ $1 == --version ]]')
    result = machine.run("launch/setup.sh", SYNCBN_PYTHON="python3.9")
    assert_refused(result, 69, "Python 3.11", "Python 3.9.2", "SYNCBN_PYTHON")
    assert not (machine.checkout / ".venv").exists()


def test_setup_with_full_disk(machine):
    machine.has_no_packages_missing()
    machine.has("python3", "exit 0")
    machine.has("df", 'echo "Filesystem 1M-blocks Used Available"; echo "x 9000 6000 3000 67% /"')
    result = machine.run("launch/setup.sh", SYNCBN_PYTHON="python3")
    assert_refused(result, 69, "needs", "3 GB are free", "free some space")
    assert not (machine.checkout / ".venv").exists()


PYTHON_WITH_BROKEN_PIP = """
[[ $1 != -c ]] || exit 0
if [[ $2 == venv ]]; then
  mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python"
elif [[ $2 == pip ]]; then
  echo "ERROR: Could not find a version that satisfies the requirement" && exit 1
fi
"""


def test_setup_without_network(machine):
    """pip fails: nothing is stamped as done, so that the next run starts over."""
    machine.has_no_packages_missing()
    machine.has("df", 'echo "Filesystem 1M-blocks Used Available"; echo "x 9 6 90000 67% /"')
    machine.has("python3", PYTHON_WITH_BROKEN_PIP)
    for _ in range(2):
        result = machine.run("launch/setup.sh", SYNCBN_PYTHON="python3")
        assert_refused(result, 69, "pip could not install", "registry", "run this again", "log")
        assert "Could not find a version" in result.stderr
        assert not (machine.checkout / ".venv" / "requirements.sha256").exists()


def test_setup_with_a_foreign_environment(machine, tmp_path):
    machine.has_no_packages_missing()
    result = machine.run("launch/setup.sh", SYNCBN_VENV=str(tmp_path))
    assert_refused(result, 66, "SYNCBN_VENV", "holds no LibTorch")


def test_setup_on_another_machine_type(machine):
    machine.has("uname", "echo Linux aarch64")
    assert_refused(machine.run("launch/setup.sh"), 69, "x86-64", "Linux aarch64")


def stamp_environment(machine):
    """Gives the machine a finished .venv, and a CMake and a Ninja that only count their calls."""
    machine.has_no_packages_missing()
    requirements = machine.checkout / "launch/requirements.txt"
    digest = subprocess.check_output("sha256sum", stdin=requirements.open(), text=True)
    (machine.checkout / ".venv").mkdir()
    (machine.checkout / ".venv/pyvenv.cfg").write_text("")
    (machine.checkout / ".venv/requirements.sha256").write_text(digest)
    count = f'echo x >>"{machine.checkout}/calls.$(basename "$0")"\n'
    machine.has(
        "cmake",
        count + 'build=$4; mkdir -p "$build"; touch "$build/build.ninja"; '
        'echo "${5#-D}" | sed s/=/:PATH=/ >"$build/CMakeCache.txt"',
    )
    machine.has("ninja", count)


def calls_of(machine, tool):
    calls = machine.checkout / f"calls.{tool}"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def test_setup_twice(machine):
    """The second run checks everything, configures nothing and takes no time."""
    stamp_environment(machine)
    assert machine.run("launch/setup.sh").returncode == 0
    assert calls_of(machine, "cmake") == 1
    started = time.monotonic()
    result = machine.run("launch/setup.sh")
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - started < 5
    assert calls_of(machine, "cmake") == 1
    assert calls_of(machine, "ninja") == 2


def test_setup_makes_venv_anew_when_requirements_change(machine):
    stamp_environment(machine)
    machine.has("python3", PYTHON_WITH_BROKEN_PIP)
    machine.has("df", 'echo "Filesystem 1M-blocks Used Available"; echo "x 9 6 90000 67% /"')
    requirements = machine.checkout / "launch/requirements.txt"
    requirements.write_text(requirements.read_text() + "# changed\n")
    result = machine.run("launch/setup.sh", SYNCBN_PYTHON="python3")
    assert_refused(result, 69, "pip could not install")


# quickstart.sh and test.sh


def test_quickstart(machine):
    """Three trainings, options passed through, and the last row of each in the table."""
    stamp_environment(machine)
    machine.has("build/syncbn-train", METRICS_TRAINER)
    machine.has("launch/fetch_mnist.sh", "echo progress >&2; echo note; echo fashion-mnist /the/data")
    result = machine.run("launch/quickstart.sh", "--train.epochs", "2")
    assert result.returncode == 0, result.stderr
    (results,) = (machine.checkout / "runs").iterdir()
    expected = {
        "none": "--norm.kind none",
        "local": "--norm.kind batch --norm.batch 64",
        "sync": "--norm.kind batch --norm.batch global",
    }
    for name, options in expected.items():
        arguments = (results / name / "args").read_text()
        assert f"--data.name fashion-mnist --data.dir /the/data --run.out {results}/{name}" in arguments
        assert f"{options} --train.epochs 2" in arguments
        assert f"{results}/{name}" in result.stdout
    assert "fashion-mnist (in place of MNIST" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.endswith(" 4.0")]
    assert len(rows) == 3
    assert rows[0] == "none 95.00 % 97.50 % 0.2500 0.1250 29952 4.0".split()


def test_quickstart_reports_a_failed_training(machine):
    stamp_environment(machine)
    machine.has("build/syncbn-train", "exit 65")
    machine.has("launch/fetch_mnist.sh", "echo mnist /the/data")
    result = machine.run("launch/quickstart.sh")
    assert_refused(result, 65, "training 'none' failed")
    assert "train acc." not in result.stdout


def test_quickstart_without_data(machine):
    stamp_environment(machine)
    machine.has("launch/fetch_mnist.sh", "echo no mirror answers >&2; exit 69")
    assert_refused(machine.run("launch/quickstart.sh"), 69, "no data")


CTEST = """
echo "$@" >"{checkout}/ctest.args"; echo "$SYNCBN_MNIST_DIR" >"{checkout}/ctest.dir"
cat <<END
{output}
END
exit {code}
"""


@pytest.mark.parametrize(
    ("output", "code", "last"),
    [
        ("100% tests passed, 0 tests failed out of 12", 0, "12 passed, 0 failed"),
        ("75% tests passed, 3 tests failed out of 12", 8, "9 passed, 3 failed"),
        ("No tests were found!!!", 8, "0 passed, 0 failed"),
    ],
)
def test_test_script(machine, output, code, last):
    stamp_environment(machine)
    machine.has("launch/fetch_mnist.sh", "echo mnist /the/data")
    machine.has("ctest", CTEST.format(checkout=machine.checkout, output=output, code=code))
    machine.has("id", "echo 1000")
    result = machine.run("launch/test.sh", "-R", "comm")
    assert result.returncode == code, result.stderr
    assert result.stdout.splitlines()[-1] == last
    arguments = (machine.checkout / "ctest.args").read_text()
    assert "--no-tests=error" in arguments
    assert "-LE ^(gpu|bench|root)$" in arguments
    assert arguments.strip().endswith("-R comm")
    assert "label 'root'" in result.stderr
    assert (machine.checkout / "ctest.dir").read_text() == "/the/data\n"
