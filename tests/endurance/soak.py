"""A soak: hundreds of short jobs beside one long one, with memory, files, descriptors and shared memory flat.

    python -m endurance.soak [--minutes 30] [--seed 1]

Short jobs are trainings, studies, refusals, stops by signal and killed ranks, on 1 to 4 ranks. The long one is a training
that saves a checkpoint every second. What it holds is compared between a fifth of the time and the end.
"""

import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from endurance import arguments
from support import study, trainer
from support.signalled import Job, alive, children

LONG = {"data.name": "synthetic", "model.hidden": "32", "train.epochs": 1000000,
        "run.checkpoint_minutes": 1 / 60, "norm.batch": 16, "model.dropout": 0.1, "data.augment": "crop"}
SHORT = {"data.name": "synthetic", "data.limit": 200, "model.hidden": "8", "train.batch": 32}
GROWTH = 1.02  # of the long job's resident memory
FLAT_FROM = 0.2


def resident_bytes(pid):
    fields = pathlib.Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def left_behind(known=frozenset()):
    """Shared memory and session folders, but for those in `known`."""
    places = [*pathlib.Path("/dev/shm").iterdir(), *pathlib.Path(tempfile.gettempdir()).glob("ompi.*/*")]
    return {str(path) for path in places} - known


def short_job(number, chance, folder, config):
    """One job and the codes that it may end with."""
    out, ranks = folder / f"short{number}", chance.randint(1, 4)
    kind = chance.randrange(6)
    if kind < 2:
        options = {**SHORT, "train.epochs": 2, "run.seed": number, "run.out": out}
        return trainer.run(*trainer.arguments(options), ranks=ranks).code, {0}
    if kind == 2:
        return study.run(config, out, ranks=ranks).code, {0}
    if kind == 3:
        wrong = chance.choice(["--train.batch=0", "--nonsense=1", "--data.dir=/nowhere", "--norm.batch=7"])
        return trainer.run(wrong, f"--run.out={out}", ranks=ranks).code, {64, 66}
    endless = {**SHORT, "train.epochs": 1000000, "run.out": out}
    job = Job(ranks, lambda _: (out / "metrics.csv").exists(), endless)
    time.sleep(chance.uniform(0, 0.5))
    if kind == 4:
        job.process.send_signal(signal.SIGUSR1)
        return job.end()[0], {75}
    os.kill(chance.choice(job.ranks), signal.SIGKILL)
    return job.end()[0], {137}


def main():
    wanted = arguments(__doc__, minutes=30.0)
    chance, known = random.Random(wanted.seed), left_behind()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        text = study.TEXT.split("[experiment")[0].replace("epochs = 120", "epochs = 1")
        config = study.write(folder, text + "[experiment a]\ntrain.batch = 16 | 32\n")
        log = open(folder / "long.log", "w")  # a pipe that nobody reads would stop it
        long = Job(2, lambda _: list(folder.glob("long/checkpoints/step-*")), {**LONG, "run.out": folder / "long"},
                   timeout=int(60 * wanted.minutes) + 300, stdout=log, stderr=log)
        started, jobs, samples = time.monotonic(), 0, []
        while (passed := time.monotonic() - started) < 60 * wanted.minutes:
            code, expected = short_job(jobs, chance, folder, config)
            assert code in expected, f"job {jobs} ended with {code}, expected {expected}"
            shutil.rmtree(folder / f"short{jobs}", ignore_errors=True)
            jobs += 1
            assert long.process.poll() is None, (folder / "long.log").read_text()[-2000:]
            samples.append((passed, [(resident_bytes(pid), descriptors(pid)) for pid in long.ranks],
                            len(list((folder / "long").rglob("*"))),
                            len(left_behind(known))))
        long.process.send_signal(signal.SIGUSR1)
        code = long.end()[0]
        log.close()
        assert code == 75, (folder / "long.log").read_text()[-2000:]
        flat = [sample for sample in samples if sample[0] > FLAT_FROM * 60 * wanted.minutes]
        first, last = flat[0], flat[-1]
        growth = max(b[0] / a[0] for a, b in zip(first[1], last[1]))
        assert growth <= GROWTH, f"resident memory grew {growth:.3f} times: {first} to {last}"
        assert [b[1] for b in last[1]] == [a[1] for a in first[1]], "descriptors: " f"{first} to {last}"
        assert last[2] <= first[2] + 1, f"files of the long run: {first[2]}, then {last[2]}"
        assert last[3] <= first[3], f"shared memory and session folders: {first[3]}, then {last[3]}"
    assert not [pid for pid in children(os.getpid()) if alive(pid)], "a process was left"
    assert not left_behind(known), f"left behind: {left_behind(known)}"
    print(f"soak: {jobs} short jobs and a long one in {wanted.minutes:g} minutes, seed {wanted.seed}: resident memory of "
          f"the long one's ranks {', '.join(f'{r / 2**20:.1f}' for r, _ in first[1])} MiB, then "
          f"{', '.join(f'{r / 2**20:.1f}' for r, _ in last[1])} MiB; {first[1][0][1]} descriptors and {first[2]} "
          f"files, then {last[1][0][1]} and {last[2]}; no process, shared memory or session folder left")


if __name__ == "__main__":
    sys.exit(main())
