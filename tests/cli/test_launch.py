"""The launch scripts on machines that lack something: one sentence, a code, and nothing half done.

Each test runs the real scripts from a copy of launch/ in a temporary folder, with a PATH that holds
every system command except those that a test takes away or replaces.
"""

import itertools
import os
import re
import subprocess
import time

import pytest

from support.machine import ROOT, Machine, assert_refused

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


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# Every script


SCRIPTS = sorted(path.name for path in (ROOT / "launch").iterdir()
                 if path.suffix in (".sh", ".sbatch") and os.access(path, os.X_OK))


def test_help_is_the_head_of_the_script_and_nothing_is_done(machine):
    for tool in ("apt-get", "cmake", "ninja", "ctest", "mpirun", "curl", "clang-format"):
        machine.has(tool, f"touch {machine.checkout}/done")
    before = sorted(machine.checkout.rglob("*"))
    assert {"setup.sh", "quickstart.sh", "test.sh", "run_local.sh", "slurm.sbatch"} < set(SCRIPTS)
    for script, option in itertools.product(SCRIPTS, ["-h", "--help"]):
        result = machine.run(f"launch/{script}", option)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"launch/{script}" in result.stdout and len(result.stdout.splitlines()) > 3
        assert "#" not in result.stdout and "set -e" not in result.stdout
    assert sorted(machine.checkout.rglob("*")) == before


def test_what_a_script_does_not_take_is_refused(machine):
    for script, word in [("setup.sh", "--jobs"), ("quickstart.sh", "fast"), ("lint.sh", "--tidier"),
                         ("fetch_mnist.sh", "--here"), ("report.sh", "--pdf"),
                         ("tensorboard.sh", "--pdf"), ("run_local.sh", "--gpus")]:
        assert_refused(machine.run(f"launch/{script}", word), 64, word, "usage:")
    assert_refused(machine.run("launch/lint.sh", "--tidy", "src"), 64, "'src'", "usage:")
    assert_refused(machine.run("launch/report.sh", "study", "--pdf"), 64, "'--pdf'", "usage: launch/")


def test_the_slurm_script_is_for_sbatch(machine):
    for folder in ({}, {"SLURM_SUBMIT_DIR": "/nowhere/at/all"}):
        assert_refused(machine.run("launch/slurm.sbatch", "configs/main.ini", **folder), 64, "with sbatch")


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


def test_setup_from_another_folder_with_relative_folders(machine):
    stamp_environment(machine)
    (machine.checkout / "here/env/lib/python3.11/site-packages/torch/include/ATen").mkdir(parents=True)
    (machine.checkout / "here/env/lib/python3.11/site-packages/torch/include/ATen/ATen.h").touch()
    machine.has("launch/from_here.sh", "cd here && ../launch/setup.sh")
    result = machine.run("launch/from_here.sh", SYNCBN_BUILD_DIR="out", SYNCBN_VENV="env")
    assert result.returncode == 0, result.stderr
    cache = (machine.checkout / "here/out/CMakeCache.txt").read_text()
    assert cache == f"SYNCBN_VENV:PATH={machine.checkout}/here/env\n"
    assert not (machine.checkout / "out").exists()


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


@pytest.mark.parametrize("option", ["config", "data.name", "data.dir", "run.out", "norm.kind", "norm.batch"])
def test_quickstart_refuses_what_it_sets_itself_before_anything_is_done(machine, option):
    stamp_environment(machine)
    machine.has("launch/fetch_mnist.sh", "echo mnist /the/data")
    for words in ([f"--{option}", "x"], ["--train.epochs", "2", f"--{option}=x"]):
        result = machine.run("launch/quickstart.sh", *words)
        assert_refused(result, 64, f"--{option} is set by this script itself", "run_local.sh")
        assert len(result.stderr.splitlines()) == 1


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
    assert "-LE ^(gpu|bench|nightly|root)$" in arguments
    assert arguments.strip().endswith("-R comm")
    assert "label 'root'" in result.stderr
    assert (machine.checkout / "ctest.dir").read_text() == "/the/data\n"


@pytest.mark.parametrize("possible", [True, False])
def test_tests_in_namespaces_are_left_out_where_none_can_be_made(machine, possible):
    """A container's root, who lacks CAP_SYS_ADMIN."""
    stamp_environment(machine)
    machine.has("launch/fetch_mnist.sh", "echo mnist /the/data")
    machine.has("ctest", CTEST.format(checkout=machine.checkout, output="", code=0))
    machine.has("id", "echo 0")
    machine.has("unshare", "true" if possible else
                "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    result = machine.run("launch/test.sh")
    assert result.returncode == 0, result.stderr
    arguments = (machine.checkout / "ctest.args").read_text()
    assert ("|root" in arguments) != possible
    assert ("CAP_SYS_ADMIN: leaving out the tests with label 'root'" in result.stderr) != possible
    assert "Operation not permitted" not in result.stderr


NINJA = """
for step in 1 2 3; do
  echo "[$step/3] Building CXX object $step.o"
  /bin/sleep {seconds}
done
"""


def test_a_long_build_shows_how_far_it_is(machine):
    """On a terminal in one line that is written anew; elsewhere a line each half minute, so here none."""
    stamp_environment(machine)
    machine.has("ninja", NINJA.format(seconds=1.2))
    quiet = machine.run("launch/setup.sh")
    assert quiet.returncode == 0 and "[1/3]" not in quiet.stderr
    assert quiet.stderr.splitlines()[-1] == "[3/3] Building CXX object 3.o"
    machine.has("launch/on_a_terminal.sh", f'script -qec "{machine.checkout}/launch/setup.sh" /dev/null')
    shown = machine.run("launch/on_a_terminal.sh").stdout
    assert "\n[1/3] \n" in shown and "\n[2/3] \n" in shown  # a return is read as a new line


def test_a_long_build_without_a_terminal_shows_it_each_half_minute(machine):
    stamp_environment(machine)
    machine.has("ninja", NINJA.format(seconds=0.5))
    machine.has("sleep", "exec /bin/sleep 0.01")  # the reporter's seconds pass at once
    assert re.search(r"\n\[[123]/3\]\n", machine.run("launch/setup.sh").stderr)


def test_a_build_that_fails_ends_with_its_errors(machine):
    stamp_environment(machine)
    machine.has("ninja", 'echo "[1/3] Building"; echo "a.cpp:1: error: no"; exit 1')
    result = machine.run("launch/setup.sh")
    assert_refused(result, 69, "The build failed.", "build.log")
    assert "a.cpp:1: error: no" in result.stderr
