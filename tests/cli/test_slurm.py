"""launch/slurm.sbatch in an imitated batch job: Slurm's variables set by hand, commands of Slurm that
only write down how they were called, and the real mpirun, which takes its ranks from the variables.

What Slurm itself does (its signals, its queue, srun's PMIx) is not tested here.
"""

import os
import shutil
import signal
import socket
import time

import pytest

from support import trainer
from support.machine import ROOT, Machine, assert_refused, ended

PROBE = """
echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE threads $OMP_NUM_THREADS" >>"{folder}/ranks"
if [[ $OMPI_COMM_WORLD_RANK != 0 ]]; then
  (({code} == 0)) && exit
  exec sleep 30  # rank 0 has its say; the first to end with a code has the others killed
fi
echo "$(basename "$0") $*" >>"{folder}/starts"
exit {code}
"""


class Batch(Machine):
    """A machine in the middle of a batch job of two tasks."""

    def __init__(self, folder):
        super().__init__(folder)
        self.spool = self.checkout / "spool" / "slurm_script"  # Slurm runs a copy, elsewhere
        self.spool.parent.mkdir()
        shutil.copy2(self.checkout / "launch/slurm.sbatch", self.spool)
        for program in ("scontrol", "srun"):
            self.has(program, f'echo "{program} $*" >>"{self.checkout}/slurm"')
        self.has("configs/study.ini", "[experiment one]\nnorm.batch = 2 | 4")

    def probes(self, code=0):
        for program in ("syncbn-train", "syncbn-study"):
            self.has(f"build/{program}", PROBE.format(folder=self.checkout, code=code))

    def submit(self, *arguments, **environment):
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return self.start(
            "spool/slurm_script", *arguments, SLURM_SUBMIT_DIR=str(self.checkout), SLURM_JOB_ID="77",
            SLURM_JOBID="77", SLURM_NTASKS="2", SLURM_NODELIST=socket.gethostname(),
            SLURM_NNODES="1", SLURM_TASKS_PER_NODE="2", SLURM_CPUS_PER_TASK="3",
            OMPI_MCA_mpi_yield_when_idle="1", **root, **environment)

    def written(self, name):
        path = self.checkout / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


def test_a_training(batch):
    batch.probes()
    result = ended(batch.submit("configs/main.ini", "--norm.batch", "global"))
    assert result.returncode == 0, result.stderr
    assert sorted(batch.written("ranks")) == ["rank 0 of 2 threads 3", "rank 1 of 2 threads 3"]
    assert batch.written("starts") == [
        "syncbn-train --config configs/main.ini --norm.batch global --run.out runs/main-77"]
    assert batch.written("slurm") == []


def test_a_study_by_srun(batch):
    batch.probes()
    result = ended(batch.submit("configs/study.ini", "--dry-run", SYNCBN_LAUNCHER="srun"))
    assert result.returncode == 0, result.stderr
    (call,) = batch.written("slurm")
    assert call.startswith("srun --mpi=pmix --cpus-per-task=3 ")
    assert call.endswith("build/syncbn-study --config configs/study.ini --dry-run")


def test_what_was_asked_to_stop_goes_back_into_the_queue(batch):
    batch.probes(code=75)
    result = ended(batch.submit("configs/main.ini"))
    assert result.returncode == 75
    assert batch.written("slurm") == ["scontrol requeue 77"]
    assert "back into the queue" in result.stderr


def test_what_comes_from_the_queue_again_resumes(batch):
    batch.probes()
    assert ended(batch.submit("configs/main.ini", "--overwrite", SLURM_RESTART_COUNT="1")).returncode == 0
    assert ended(batch.submit("configs/study.ini", SLURM_RESTART_COUNT="1")).returncode == 0
    assert batch.written("starts") == [
        "syncbn-train --config configs/main.ini --run.out runs/main-77 --resume",
        "syncbn-study --config configs/study.ini"]


def test_requeues_have_an_end(batch):
    batch.probes(code=75)
    result = ended(batch.submit("configs/main.ini", SLURM_RESTART_COUNT="2", SYNCBN_MAX_REQUEUES="2"))
    assert_refused(result, 75, "after 2 requeues", "SYNCBN_MAX_REQUEUES", "submit it again")
    assert batch.written("slurm") == []


def test_a_refusal_of_slurms_is_told(batch):
    batch.probes(code=75)
    batch.has("scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    assert_refused(ended(batch.submit("configs/main.ini")), 75, "refuses to requeue job 77", "--resume")


@pytest.mark.parametrize("code", [64, 70, 74])
def test_no_other_code_is_tried_again(batch, code):
    batch.probes(code)
    assert ended(batch.submit("configs/main.ini", SYNCBN_MAX_RESTARTS="3")).returncode == code
    assert len(batch.written("starts")) == 1 and batch.written("slurm") == []


def test_a_crash_is_restarted_within_the_allocation(batch):
    batch.probes(code=71)
    batch.has("sleep", '[[ $1 == 5 ]] || exec /bin/sleep "$@"')  # the pause between two starts
    result = ended(batch.submit("configs/main.ini", SYNCBN_MAX_RESTARTS="1"))
    assert result.returncode == 71 and "Restart 1 of 1" in result.stderr
    assert [line.endswith("--resume") for line in batch.written("starts")] == [False, True]


def test_what_is_wrong_is_told(batch):
    usage = ended(batch.submit())
    assert_refused(usage, 64, "no configuration file", "usage: sbatch")
    assert_refused(ended(batch.submit("nowhere.ini")), 66, "'nowhere.ini'")
    assert_refused(ended(batch.submit("configs/main.ini")), 69, "syncbn-train is not built")
    batch.probes()
    assert_refused(ended(batch.submit("configs/main.ini", SYNCBN_LAUNCHER="aprun")), 64, "'aprun'")
    assert_refused(ended(batch.submit("configs/main.ini", SYNCBN_MAX_REQUEUES="all")), 64, "'all'")


def test_slurms_warning_saves_and_requeues(batch, tmp_path):
    """The real trainer: SIGUSR1 to the batch shell alone, as --signal=B: sends it."""
    batch.has("build/syncbn-train", f'exec "{trainer.PROGRAM}" "$@"')
    run = tmp_path / "run"
    options = {"data.name": "synthetic", "data.limit": 320, "model.hidden": 8, "train.batch": 32,
               "train.epochs": 100000, "run.checkpoint_steps": 1000000, "run.out": run}
    job = batch.submit("configs/main.ini", *trainer.arguments(options))
    deadline = time.monotonic() + 60
    while not (run / "metrics.csv").exists() or len((run / "metrics.csv").read_text().splitlines()) < 2:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGUSR1)
    result = ended(job)
    assert result.returncode == 75, result.stderr
    assert batch.written("slurm") == ["scontrol requeue 77"]
    assert list((run / "checkpoints").glob("step-*.safetensors"))


def test_the_heads_directives():
    lines = (ROOT / "launch/slurm.sbatch").read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@120"} <= set(directives)
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(line in lines[:first_command] for line in directives), "sbatch reads no further"
