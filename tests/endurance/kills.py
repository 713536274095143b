"""Random kills over studies and trainings: each must end with the results of one that was not disturbed.

    python -m endurance.kills [--kills 200] [--seed 1]

A study is started on 2 to 4 ranks (it has cells of two) and a rank, or mpirun, is killed at a random moment; the same
command, on another number of ranks, goes on until the study is done, and then another begins. Every second job is a
training on 1 to 4 ranks, which goes on with --resume.
"""

import hashlib
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from endurance import arguments
from support import study, trainer
from support.signalled import alive, children

TRAINING = {"data.name": "synthetic", "data.limit": 301, "model.hidden": "12,9", "train.batch": 48,
            "train.epochs": 60, "run.checkpoint_steps": 5, "model.dropout": 0.2}
LONGEST_S = 4.0  # from the launch to the kill


def killed(command, chance):
    """Runs the command and kills a rank or mpirun at a random moment; false: it ended before."""
    process = trainer.subprocess.Popen(command, stdin=trainer.subprocess.DEVNULL, text=True,
                                       stderr=trainer.subprocess.PIPE,
                                       stdout=trainer.subprocess.DEVNULL,
                                       env=trainer.environment(), cwd=trainer.ROOT)
    time.sleep(chance.uniform(0, LONGEST_S))
    ranks = children(process.pid)
    hit = process.poll() is None
    if hit:
        victim = chance.choice([*ranks, process.pid])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            hit = False
    stderr = process.communicate(timeout=120)[1]
    deadline = time.monotonic() + 10
    while any(map(alive, ranks)):
        assert time.monotonic() < deadline, "a rank outlived its mpirun by 10 s"
        time.sleep(0.02)
    code = process.returncode
    expected = (137, -signal.SIGKILL, 1) if hit else (0,)
    # A rank that is killed as the job ends may leave it as it would have ended anyway.
    assert code in (*expected, 0), f"code {code}: {stderr}"
    return hit, code


def until_done(words, program, fewest_ranks, chance, done):
    """The number of kills that the command took until it ended by itself."""
    kills = 0
    while True:
        command = trainer.command(*words, ranks=chance.randint(fewest_ranks, 4), program=program)
        hit, code = killed(command, chance)
        kills += hit
        if code == 0 and done():
            return kills


def main():
    wanted = arguments(__doc__, kills=200)
    chance, started = random.Random(wanted.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        config = study.write(folder)
        assert study.run(config, folder / "whole").code == 0
        expected = study.results(folder / "whole")
        whole = trainer.train(folder / "whole_run", TRAINING, ranks=2, config="smoke.ini")
        model = hashlib.sha256((whole.folder / "model.safetensors").read_bytes()).hexdigest()
        kills = {"studies": 0, "trainings": 0}
        ended = {"studies": 0, "trainings": 0}
        while sum(kills.values()) < wanted.kills:
            number = sum(ended.values())
            out = folder / f"out{number}"
            if number % 2 == 0:
                kills["studies"] += until_done(study.words(config, out), study.PROGRAM, 2, chance,
                                               lambda: len(study.finished(out)) == study.TRIALS)
                assert study.results(out) == expected, f"{out} differs from the undisturbed study"
                ended["studies"] += 1
            else:
                words = ["--config=configs/smoke.ini", *trainer.arguments({**TRAINING, "run.out": out}), "--resume"]
                kills["trainings"] += until_done(words, trainer.PROGRAM, 1, chance,
                                                 lambda: (out / "model.safetensors").exists())
                found = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
                assert found == model, f"{out} differs from the undisturbed training"
                rows = trainer.Run(trainer.Result(0, "", "", 0), out).column("train_loss")
                assert rows == whole.column("train_loss"), "a metrics row is missing or doubled"
                ended["trainings"] += 1
    print(f"kills: {kills['studies']} over {ended['studies']} studies, {kills['trainings']} over "
          f"{ended['trainings']} trainings, seed {wanted.seed}: every result equals the undisturbed "
          f"one's ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
