"""The promises of the reliability table, each under its fault: row, fault, expected, found, seconds.

    tests/faults.sh [ROW …]      for instance P05 P41

What is injected from outside is injected here (signals, preloads, damaged files, a network that goes down); what can only
be reached from inside is the named test of the suite. The last line says "N passed, N failed, N left out". What a machine
cannot do is left out, by name: rows that need a namespace where none can be made, and G01 to G06, which need GPUs.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from endurance.rows import (BUILD, ENDLESS, ROWS, SOON_S, LeftOut, abandoned, ended, endless, expect_nothing_left,
                            finish_and_compare, in_suite, last_step, model_hash, needs_namespace, row)
from support import idx, trainer
from support.signalled import Job, catches, end_children

# ---- ranks that die, stop, or go astray ----

@row("P01", "rank 1 is killed by SIGKILL", "137 within 5 s; resuming gives the undisturbed bits")
def killed_rank(scratch):
    job = endless(scratch / "run", ranks=3)
    os.kill(job.ranks[1], signal.SIGKILL)
    found, _ = ended(job, 137)
    finish_and_compare(scratch / "run", scratch, ranks=2)
    return found + ", same bits"


@row("P02", "a rank crashes: SEGV, ABRT, QUIT", "139, 134, 131 within 5 s")
def crashed_rank(scratch):
    found = []
    for number, code in ((signal.SIGSEGV, 139), (signal.SIGABRT, 134), (signal.SIGQUIT, 131)):
        job = endless(scratch / f"run{code}")
        os.kill(job.ranks[1], number)
        found.append(ended(job, code)[0])
    return "; ".join(found)


in_suite("P03", "an exception on one rank alone", "its code, one line with the rank", "runtime_test")


@row("P04", "a rank never starts MPI", "124 after SYNCBN_START_TIMEOUT, never a hang")
def missing_rank(scratch):
    limit = 3
    started = time.monotonic()
    result = subprocess.run(["mpirun", "-n", "1", "sleep", "60", ":", "-n", "1", trainer.PROGRAM,
                             *trainer.arguments({"data.name": "synthetic", "run.out": scratch / "run"})],
                            env=trainer.environment(SYNCBN_START_TIMEOUT=str(limit)), text=True,
                            capture_output=True, timeout=60, check=False)
    seconds = time.monotonic() - started
    assert result.returncode == 124, result.stderr
    assert seconds < limit + SOON_S, f"{seconds:.1f} s"
    return f"124 in {seconds:.1f} s"


@row("P05", "a rank is stopped: in training, and in the self-check", "124 by limit + 5 s, a line of the rank")
def stopped_rank(scratch):
    limit = 3
    job = endless(scratch / "run", **{"run.timeout": limit})
    os.kill(job.ranks[1], signal.SIGSTOP)
    training, stderr = ended(job, 124, within=limit + SOON_S)
    assert "rank 0/2" in stderr and "no progress for 3 s" in stderr, stderr
    check = Job(2, lambda pids: len(pids) == 2, {"model.hidden": "512,512", "run.timeout": limit}, "--self-check")
    time.sleep(1.5)
    os.kill(check.ranks[1], signal.SIGSTOP)
    checking, _ = ended(check, 124, within=limit + SOON_S)
    return f"training {training}; self-check {checking}"


in_suite("P06", "an endless loop in one rank's own code", "124; the report tells who waits from who computes",
         "runtime_test")
in_suite("P07", "one rank passes another count, dtype, operation or root", "76 before data moves, both signatures",
         r"contract_ranks_test\.np2", r"contract_ranks_test\.np3")
in_suite("P08", "two collectives in swapped order, or one left out", "76, or found at the next comparison",
         r"contract_ranks_test\.np4", "contract_test")


# ---- signals to mpirun ----

@row("P09", "SIGUSR1 at 20 random times, from mpirun's handler on", "75 with a checkpoint, or 0 where it came too late")
def stop_signals(scratch):
    chance, codes = random.Random(9), []
    for part in range(20):
        folder = scratch / f"run{part}"
        options = {**ENDLESS, "train.epochs": 400, "run.out": folder}
        process = trainer.start(*trainer.arguments(options), ranks=2)
        while not catches(process.pid, signal.SIGUSR1):
            assert process.poll() is None, "mpirun ended before it caught signals"
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 1.6))
        process.send_signal(signal.SIGUSR1)
        stderr = process.communicate(timeout=120)[1]
        assert process.returncode in (0, 75), f"{process.returncode}: {stderr}"
        codes.append(process.returncode)
    assert codes.count(75) >= 15, codes
    return f"{codes.count(75)} x 75, {codes.count(0)} x 0"


@row("P10", "SIGTERM to mpirun", "1, and the checkpoint before or after is whole: same bits")
def terminated(scratch):
    job = endless(scratch / "run")
    job.process.send_signal(signal.SIGTERM)
    found, _ = ended(job, 1)
    finish_and_compare(scratch / "run", scratch, ranks=3)
    return found + ", same bits"


@row("P11", "a second SIGUSR1 10 ms after the first", "75 as after one")
def signalled_twice(scratch):
    job = endless(scratch / "run")
    for _ in range(2):
        job.process.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
    return ended(job, 75)[0]


@row("P12", "mpirun under run_local.sh is killed by SIGKILL", "ranks gone within 5 s, no shared memory left")
def killed_launcher(scratch):
    before = abandoned()
    options = trainer.arguments({**ENDLESS, "run.out": scratch / "run"})
    script = subprocess.Popen([trainer.ROOT / "launch/run_local.sh", "-n", "2", "configs/smoke.ini", *options],
                              cwd=trainer.ROOT, env=trainer.environment(SYNCBN_BUILD_DIR=str(BUILD)),
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((scratch / "run").glob("checkpoints/step-*")):
        assert time.monotonic() < deadline and script.poll() is None, "it did not train"
        time.sleep(0.05)
    mpirun = subprocess.run(["pgrep", "-P", str(script.pid), "mpirun"], capture_output=True, text=True, check=True)
    ranks = subprocess.run(["pgrep", "-P", mpirun.stdout.split()[0]], capture_output=True, text=True, check=True)
    os.kill(int(mpirun.stdout.split()[0]), signal.SIGKILL)
    started = time.monotonic()
    script.wait(timeout=30)
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in ranks.stdout.split()):
        assert time.monotonic() - started < SOON_S, "a rank is still there"
        time.sleep(0.02)
    expect_nothing_left(before)
    return f"ranks gone in {time.monotonic() - started:.1f} s, nothing left"


NETWORK_CUT = """
ip link set lo up
timeout 100 mpirun --mca btl tcp,self --mca btl_tcp_if_include lo --mca oob_tcp_if_include lo -n 2 "$@" &
while [ ! -e "$OUT/metrics.csv" ]; do sleep 0.1; done
ip link set lo down; sleep "$CUT"; ip link set lo up
wait $!
"""


@row("P13", "the network between ranks is cut: for 3 s, and for longer than the limit", "0 with the same bits; 124")
def network_cut(scratch):
    needs_namespace("net")
    codes = []
    for cut, limit in ((3, 30), (15, 4)):
        out = scratch / f"run{cut}"
        options = {**ENDLESS, "train.epochs": 400, "run.timeout": limit, "run.out": out}
        result = subprocess.run(["unshare", "--net", "sh", "-c", NETWORK_CUT, "sh", trainer.PROGRAM,
                                 *trainer.arguments(options)], env=trainer.environment(OUT=str(out), CUT=str(cut)),
                                text=True, capture_output=True, timeout=200, check=False)
        codes.append(result.returncode)
    assert codes == [0, 124], f"{codes}: {result.stderr[-1500:]}"
    whole = trainer.train(scratch / "whole", {**ENDLESS, "train.epochs": 400}, timeout=300)
    assert model_hash(scratch / "run3") == model_hash(whole.folder), "other bits"
    return "0 with the same bits; 124"


@row("P14", "an empty environment, more ranks than cores, no ranks, no file", "works; 64; 66")
def bare_launch(scratch):
    def launch(*words):
        path = f"PATH={os.environ['PATH']}"
        return subprocess.run(["env", "-i", path, f"SYNCBN_BUILD_DIR={BUILD}", trainer.ROOT / "launch/run_local.sh",
                               *words], cwd=trainer.ROOT, capture_output=True, text=True, timeout=120, check=False,
                              stdin=subprocess.DEVNULL).returncode
    codes = [launch("-n", "3", "configs/smoke.ini", "--run.out", scratch / "run"),
             launch("-n", "0", "configs/smoke.ini"), launch("-n", "2", scratch / "none.ini")]
    assert codes == [0, 64, 66], codes
    return "0, 64, 66"


# ---- inputs ----

in_suite("P15", "an IDX file cut at every length", "65, expected and found bytes", "idx_test", "train_inputs")
in_suite("P16", "sizes of 2^32 - 1", "65, little memory", "idx_test")
in_suite("P17", "wrong magic, type, dimensions, trailing bytes", "65, which", "idx_test")
in_suite("P18", "damaged, cut and exploding gzip", "65, inflation stops at the announced size", "idx_test")
in_suite("P19", "labels and counts that do not fit", "65, the index of the first bad label", "train_inputs",
         r"dataset_test\.np2")
in_suite("P20", "a folder, a FIFO, a device, an unreadable file", "66 at once", "train_inputs")
in_suite("P21", "ranks see other data", "76, or read once per node", r"dataset_test\.np2")


@row("P22", "the data files are emptied while the run goes on", "0, the same bits")
def emptied_data(scratch):
    data = idx.write_tiny(scratch)
    options = {"data.dir": data, "model.hidden": "8", "train.batch": 10, "train.epochs": 300}
    whole = trainer.train(scratch / "whole", options, ranks=2)
    job = Job(2, lambda _: (scratch / "run/metrics.csv").exists(), {**options, "run.out": scratch / "run"})
    for name in idx.NAMES:
        os.truncate(data / name, 0)
    code, stderr, _ = job.end()
    assert code == 0, stderr
    assert model_hash(scratch / "run") == model_hash(whole.folder), "other bits"
    return "0, same bits"


@row("P23", "kills while checkpoints are written, 15 times", "the old or the new one loads: same bits")
def killed_saves(scratch):
    chance, folder = random.Random(23), scratch / "run"
    for part in range(15):
        job = endless(folder, ranks=1 + part % 3, **{"run.checkpoint_steps": 1})
        time.sleep(chance.uniform(0, 0.1))
        os.kill(chance.choice(job.ranks), signal.SIGKILL)
        ended(job, 137)
    finish_and_compare(folder, scratch, ranks=2)
    return "same bits"


in_suite("P24", "a full disk", "74 with path and reason, the checkpoint before is whole", "train_disk_full",
         namespace="mount")
in_suite("P25", "any byte of a checkpoint is changed", "65, the damaged part", "checkpoint_test")
in_suite("P26", "a checkpoint cut at any length", "65", "checkpoint_test", "corpus_tensors")
in_suite("P27", "a checkpoint of another run", "65, each differing option", "train_resume_refused",
         "train_resume_refused_nightly")
in_suite("P28", "a checkpoint of a newer format", "65, both formats", "checkpoint_test")


@row("P29", "a run's folder that is a file, not empty, or held by a running job", "73 before the first step")
def refused_folders(scratch):
    (scratch / "file").write_text("x")
    (scratch / "full").mkdir()
    (scratch / "full/x").write_text("x")
    job = endless(scratch / "run")
    codes = [trainer.run("--config=configs/smoke.ini", f"--run.out={scratch / name}", *flags).code
             for name, *flags in (["file"], ["full"], ["run", "--overwrite"], ["run", "--resume"])]
    job.process.send_signal(signal.SIGUSR1)
    job.end()
    assert codes == [73] * 4, codes
    return "73 four times"


@row("P30", "crashes, then the metrics files", "no row missing, doubled or torn")
def metrics_rows(scratch):
    folder = scratch / "run"
    for part in range(3):
        job = endless(folder)
        os.kill(job.ranks[part % 2], signal.SIGKILL)
        ended(job, 137)
    finish_and_compare(folder, scratch, ranks=2)
    return "rows equal the undisturbed run's"


@row("P31", "the loss is not finite", "70 in that step on all ranks, no model")
def diverged(scratch):
    out = scratch / "run"
    result = trainer.run("--data.name=synthetic", "--norm.kind=none", "--train.optimizer=sgd", "--train.lr=1e30",
                         f"--run.out={out}", ranks=2)
    assert result.code == 70 and not (out / "model.safetensors").exists(), result.stderr
    return "70"


in_suite("P32", "one replica's weights or moments differ by a bit", "70 at the next comparison, the tensor",
         r"trainer_test\.np2")


@row("P33", "1, 2, 3, 4 ranks, 1 and 2 threads", "one hash")
def any_ranks(scratch):
    options = {**ENDLESS, "train.epochs": 3}
    hashes = {model_hash(trainer.train(scratch / f"run{ranks}{threads}", {**options, "run.threads": threads},
                                       ranks=ranks).folder) for ranks in (1, 2, 3, 4) for threads in (1, 2)}
    assert len(hashes) == 1, hashes
    return "one hash of 8 runs"


in_suite("P34", "stopped at any step, resumed on other ranks", "the undisturbed bits", "train_resume",
         "train_resume_nightly")
in_suite("P35", "ranks and batch that do not divide the data", "every sample once", "sampler_test",
         r"evaluation_test\.np3")
in_suite("P36", "sync BN against one process", "fp64: 1e-10", r"central_test\.np3", r"sync_batch_norm_test\.np3")
in_suite("P37", "negative, huge, nan, doubled, unknown options", "64 or 78 with the nearest name", "options_test",
         "train_options")
in_suite("P38", "odd configuration files", "66, 78 or a correct parse", "options_file_test", "train_inputs")


@row("P39", "ranks with other options, another --config, none at all", "76 with both")
def other_options(scratch):
    (scratch / "other.ini").write_text("[train]\nbatch = 32\n")
    smoke = "--config=configs/smoke.ini"
    out = f"--run.out={scratch / 'run'}"
    codes = [trainer.run(out, ranks=words).code
             for words in ([[smoke], [smoke, "--train.lr=0.1"]], [[smoke], [f"--config={scratch / 'other.ini'}"]],
                           [[smoke], []], [[smoke], [f"--config={scratch / 'none.ini'}"]])]
    assert codes == [76] * 4, codes
    return "76 four times"


@row("P40", "50 launches and stops", "no process, shared memory or session folder left")
def many_launches(scratch):
    before = abandoned()
    for part in range(50):
        out = scratch / f"run{part}"
        result = trainer.run("--config=configs/smoke.ini", "--train.max_steps=3", f"--run.out={out}",
                             ranks=1 + part % 3)
        assert result.code == 0, result.stderr
        shutil.rmtree(out)
    expect_nothing_left(before)
    return "nothing left"


@row("P41", "two ranks killed under run_local.sh --max-restarts 3", "relaunched and resumed to the undisturbed bits")
def restarted(scratch):
    out, options = scratch / "run", {**ENDLESS, "train.epochs": 800}
    script = subprocess.Popen([trainer.ROOT / "launch/run_local.sh", "-n", "2", "--max-restarts", "3",
                               "configs/smoke.ini", *trainer.arguments({**options, "run.out": out})],
                              cwd=trainer.ROOT, env=trainer.environment(SYNCBN_BUILD_DIR=str(BUILD)), text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    for _ in range(2):
        known = last_step(out) if list(out.glob("checkpoints/step-*")) else 0
        deadline = time.monotonic() + 60
        while not list(out.glob("checkpoints/step-*")) or last_step(out) <= known + 6:
            assert time.monotonic() < deadline and script.poll() is None, "it did not train"
            time.sleep(0.02)
        ranks = subprocess.run(["pgrep", "-f", f"syncbn-train.*{out}"], capture_output=True, text=True, check=True)
        os.kill(int(ranks.stdout.split()[-1]), signal.SIGKILL)
    stderr = script.communicate(timeout=300)[1]
    assert script.returncode == 0, stderr[-1500:]
    whole = trainer.train(scratch / "whole", options, timeout=300, config="smoke.ini")
    assert model_hash(out) == model_hash(whole.folder), "other bits"
    return "0 after two restarts, same bits"


# ---- the table ----

def run(wanted):
    """"passed", "failed" or "left out", and what was found, what is wrong, or why."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return "passed", wanted.check(pathlib.Path(scratch))
        except LeftOut as why:
            return "left out", str(why)
        except Exception as error:  # whatever it is, the other rows are still to be tried
            return "failed", f"{type(error).__name__}: {error}"
        finally:
            end_children()  # a row that failed has not ended its jobs


def main(names):
    unknown = set(names) - {known.name for known in ROWS}
    if unknown:
        print(f"unknown rows: {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in ROWS)}",
              file=sys.stderr)
        return 64
    counts = {"passed": 0, "failed": 0, "left out": 0}
    print("| row | fault | expected | found | seconds |\n|---|---|---|---|---|")
    for wanted in ROWS:
        if names and wanted.name not in names:
            continue
        started = time.monotonic()
        verdict, found = run(wanted)
        counts[verdict] += 1
        mark = {"passed": "", "failed": "**FAILED** ", "left out": "left out: "}[verdict]
        found = mark + found.replace("\n", " / ").replace("|", "/")
        print(f"| {wanted.name} | {wanted.fault} | {wanted.expected} | {found} | "
              f"{time.monotonic() - started:.1f} |", flush=True)
    if not names:
        print("| G01-G06 | faults of GPUs and NCCL | | left out: they need GPUs | |")
        counts["left out"] += 6
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
