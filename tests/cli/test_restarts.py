"""Jobs under launch/run_local.sh that are killed, fail, or are told to stop: what starts again, what it
ends with, and what it leaves behind. mpirun is the real one; the trainer too, but where a test says."""

import hashlib
import os
import re
import signal
import time
from pathlib import Path

import pytest

from support import trainer
from support.machine import Machine, ended
from support.signalled import alive, children

# Saves after each step, so that it lasts long enough to be killed twice, and rank 0 is seen to move on.
OPTIONS = {"data.name": "synthetic", "data.limit": 320, "model.hidden": "12,9", "train.batch": 32,
           "train.epochs": 12, "norm.batch": "global", "run.checkpoint_steps": 1}
STEPS = 120


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def real(machine):
    """Gives the machine the trainer that was built."""
    machine.has("build/syncbn-train", f'exec "{trainer.PROGRAM}" "$@"')


def started(machine, *flags, options=(), config="main.ini", ranks=2):
    return machine.start("launch/run_local.sh", "-n", ranks, *flags, f"configs/{config}",
                         *trainer.arguments(dict(options)), OMPI_MCA_mpi_yield_when_idle="1")


def wait_for(look, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
    return found


def end(*pids):
    """What a failed test would leave."""
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)


def is_mpirun(pid):
    try:
        return "mpirun" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return False


def launcher_of(script):
    """The pid of the mpirun that a running script looks after."""
    def found():
        assert script.poll() is None, script.communicate()
        return [pid for pid in children(script.pid) if children(pid) and is_mpirun(pid)]
    return wait_for(found)[0]


def folder_of(launcher):
    """Where this job's Open MPI keeps its files."""
    environment = Path(f"/proc/{launcher}/environ").read_text()
    return Path(re.search("SYNCBN_JOB_FOLDER=([^\0]+)", environment)[1])


def newest_step(run):
    steps = [int(path.stem.split("-")[1]) for path in (run / "checkpoints").glob("step-*.safetensors")]
    return max(steps, default=0)


def digest(run):
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def metrics(run):
    return [line.split(",")[:3] for line in (run / "metrics.csv").read_text().splitlines()]


def test_two_kills_change_nothing(machine, tmp_path):
    """The first kills a rank, the second mpirun itself; the run ends with the bits of one that had none."""
    real(machine)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = ended(started(machine, options={**OPTIONS, "run.out": whole}))
    assert result.returncode == 0 and newest_step(whole) == STEPS, result.stderr

    script = started(machine, "--max-restarts", 3, options={**OPTIONS, "run.out": killed})
    wait_for(lambda: newest_step(killed) >= 5)
    os.kill(children(launcher_of(script))[1], signal.SIGKILL)
    reached = newest_step(killed)
    wait_for(lambda: newest_step(killed) >= reached + 10)
    launcher = launcher_of(script)
    folder, ranks = folder_of(launcher), children(launcher)
    assert folder.is_dir() and reached + 10 < STEPS
    os.kill(launcher, signal.SIGKILL)
    result = ended(script)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "Restart" in line]
    assert [re.search("ended with 137: .* Restart . of 3", line) is not None for line in said] == [True] * 2
    assert digest(killed) == digest(whole)
    assert metrics(killed) == metrics(whole)
    assert not folder.exists() and not any(map(alive, ranks))


def test_the_folder_of_a_restarted_training_is_known(machine):
    """Nobody named one: both starts have the same, and only the second resumes."""
    machine.has("build/syncbn-train", f'echo "$@" >>"{machine.checkout}/starts"; exit 71')
    result = ended(started(machine, "--max-restarts=1", "--", ranks=1))
    assert result.returncode == 71
    first, second = (machine.checkout / "starts").read_text().splitlines()
    assert re.fullmatch(r"--config configs/main.ini --run.out runs/main-\d{8}-\d{6}", first)
    assert second == first + " --resume"
    assert "Restart 1 of 1" in result.stderr


def test_a_restart_replaces_nothing(machine):
    machine.has("build/syncbn-train", f'echo "$@" >>"{machine.checkout}/starts"; exit 124')
    script = machine.start("launch/run_local.sh", "-n", 1, "configs/main.ini", "--overwrite",
                           "--run.out=here", SYNCBN_MAX_RESTARTS="1")
    assert ended(script).returncode == 124
    assert (machine.checkout / "starts").read_text().splitlines() == [
        "--config configs/main.ini --overwrite --run.out=here",
        "--config configs/main.ini --run.out=here --resume"]


def test_an_older_run_is_not_taken_for_the_one_that_replaces_it(machine):
    """The first start fails before it replaces anything, the second after that."""
    folder = machine.checkout / "here"
    folder.mkdir()
    (folder / "config.ini").write_text("older")
    machine.has("build/syncbn-train", f'''echo "$@" >>"{machine.checkout}/starts"
if (($(wc -l <"{machine.checkout}/starts") == 2)); then
  echo newer >"{folder}/new" && mv "{folder}/new" "{folder}/config.ini"
fi
exit 124''')
    script = machine.start("launch/run_local.sh", "-n", 1, "configs/main.ini", "--overwrite",
                           "--run.out=here", SYNCBN_MAX_RESTARTS="2")
    assert ended(script).returncode == 124
    as_given = "--config configs/main.ini --overwrite --run.out=here"
    assert (machine.checkout / "starts").read_text().splitlines() == [
        as_given, as_given, "--config configs/main.ini --run.out=here --resume"]


def test_a_study_goes_on_by_itself(machine):
    machine.has("configs/study.ini", "[experiment one]\nnorm.batch = 2 | 4")
    machine.has("build/syncbn-study", f'echo "$@" >>"{machine.checkout}/starts"; kill -SEGV $$')
    result = ended(started(machine, "--max-restarts", 2, config="study.ini", ranks=1))
    assert result.returncode == 139 and "crashed" in result.stderr.splitlines()[-1]
    assert (machine.checkout / "starts").read_text().splitlines() == ["--config configs/study.ini"] * 3


STARTS = """
source launch/job.sh
for code in {0..255}; do
  rm -f starts
  run_job 2 bash -c 'echo >>starts; exit "$0"' -- "$code" 2>/dev/null
  echo "$code $job_status $(wc -l <starts)"
done
"""


def test_what_a_second_try_would_not_change_is_not_tried(machine):
    """The rule alone, over all codes."""
    machine.has("launch/starts.sh", STARTS)
    lines = machine.run("launch/starts.sh").stdout.splitlines()
    assert [tuple(map(int, line.split())) for line in lines] == [
        (code, code, 3 if code in (71, 124, 137, 139) else 1) for code in range(256)]


def test_the_programs_own_sentence_is_the_last_one(machine):
    """Neither the script nor mpirun says more of a code that the program has explained."""
    machine.has("build/syncbn-train", 'echo "a sentence" >&2; exit 64')
    result = ended(started(machine, "--max-restarts", 3, ranks=2))
    assert result.returncode == 64
    lines = result.stderr.splitlines()
    command = next(i for i, line in enumerate(lines) if " mpirun " in line)
    assert set(lines[command + 1:]) == {"a sentence"}


def test_a_failure_of_mpirun_itself_is_told(machine):
    machine.has("build/syncbn-train", "true")
    machine.has("mpirun", "exit 213")
    result = ended(started(machine))
    assert result.returncode == 213
    assert "213" in result.stderr and "--quiet" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name, code", [("USR1", 75), ("INT", 1)])
def test_a_signal_to_the_script_saves_and_ends(machine, tmp_path, name, code):
    real(machine)
    run = tmp_path / "run"
    options = {**OPTIONS, "train.epochs": 100000, "run.checkpoint_steps": 100, "run.out": run}
    script = started(machine, "--max-restarts", 3, options=options)
    launcher = launcher_of(script)
    folder = folder_of(launcher)
    wait_for(lambda: newest_step(run) > 0)
    os.kill(script.pid, getattr(signal, f"SIG{name}"))
    result = ended(script)
    assert result.returncode == code, result.stderr
    assert "Restart" not in result.stderr
    assert newest_step(run) % 100 != 0, "what was saved last was not asked for"
    assert not folder.exists() and not alive(launcher)


def test_a_signal_that_comes_before_mpirun_is_ready(machine):
    """It waits for mpirun's handler: mpirun itself is not ended by it."""
    machine.has("mpirun", """
sleep 1
trap "exit 75" USR1
for _ in {1..100}; do sleep 0.1; done""")
    machine.has("build/syncbn-train", "true")
    script = started(machine)
    wait_for(lambda: children(script.pid))
    time.sleep(0.2)
    os.kill(script.pid, signal.SIGUSR1)
    assert ended(script).returncode == 75


def test_the_time_limit_is_of_all_starts(machine):
    machine.has("build/syncbn-train", "sleep 3; exit 71")
    began = time.monotonic()
    result = ended(started(machine, "-t", 5, "--max-restarts", 9, ranks=1))
    assert result.returncode == 110 and "time limit" in result.stderr.splitlines()[-1]
    assert result.stderr.count("Restart") == 1 and time.monotonic() - began < 20


def test_what_does_not_notice_is_ended(machine):
    """mpirun is killed, and its ranks would sleep on: they are ended, and nothing is left."""
    machine.has("build/syncbn-train", "exec sleep 600")
    script = started(machine)
    launcher = launcher_of(script)
    folder, ranks = folder_of(launcher), children(launcher)
    os.kill(launcher, signal.SIGKILL)
    try:
        result = ended(script)
        assert result.returncode == 137 and "killed" in result.stderr.splitlines()[-1]
        assert not any(map(alive, ranks)) and not folder.exists()
    finally:
        end(*ranks)


def test_the_script_itself_is_killed(machine):
    """mpirun ends with it. The next start removes the folder that is left, and no running job's."""
    machine.has("build/syncbn-train", "exec sleep 600")
    running, script = started(machine), started(machine)
    launcher, ranks = 0, []
    try:
        launcher = launcher_of(script)
        folder, ranks = folder_of(launcher), children(launcher)
        kept = folder_of(launcher_of(running))
        script.kill()
        ended(script)
        wait_for(lambda: not any(map(alive, [launcher, *ranks])))
        folder.mkdir(exist_ok=True)
        machine.has("build/syncbn-train", "true")
        assert ended(started(machine)).returncode == 0
        assert not folder.exists() and kept.is_dir()
    finally:
        end(*filter(None, [launcher, *ranks]))
        running.terminate()
        ended(running)
    assert not kept.exists()
