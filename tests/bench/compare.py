#!/usr/bin/env python3
"""What a training step costs: no norm, local BN, sync BN, and Python DistributedDataParallel.

    compare.py --build BUILD [--rows 16 64 256] [--rounds 60] [--ranks 2] [--check] [--save FILE]

Runs tests/bench/step_bench.cpp and ddp_step.py side by side. Both stay alive; blocks of their steps
take turns (none, local, global, DDP, none, …), and the one whose turn it is not sleeps on a named
pipe, so that each block has the machine to itself and all see the same disturbances. A ratio is the
median over rounds of the ratio of two blocks of one round. --check: exit code 1 unless, at 64 rows,
sync BN costs at most 1.15 of no norm and DDP at least 12 times sync BN. --save writes a Markdown
page; ctest --test-dir build -L bench does the check.
"""

import argparse
import datetime
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
NORMS = ("none", "local", "global")
DDP = {"ddp": "Python DDP, sync BN", "ddp-tuned": "the same, tuned"}  # ddp_step.py says how
PARTS = ("data", "forward", "backward", "norm_comm", "gradient_comm", "optimizer")
STEPS, DDP_STEPS, WARM_UP = 50, 20, 3  # per block; blocks before the first that counts
MOST_FOR_SYNC, LEAST_FOR_DDP, CHECKED_ROWS = 1.15, 12, 64

# As launch/run_local.sh starts a job on one machine; the environment wins.
ENVIRONMENT = {
    "OMPI_MCA_plm": "isolated",
    "OMPI_MCA_btl": "self,vader",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_DYNAMIC": "FALSE",
}
if os.geteuid() == 0:
    ENVIRONMENT |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


class Job:
    """A program on several ranks that reads its commands from one named pipe per rank."""

    def __init__(self, commands, control, ranks):
        for rank in range(ranks):
            os.mkfifo(f"{control}.{rank}")
        environment = ENVIRONMENT | dict(os.environ)
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                             env=environment) for command in commands]
        # O_RDWR: opened without waiting for a reader, which may have ended on its first line.
        self.pipes = [open(os.open(f"{control}.{rank}", os.O_RDWR), "w", encoding="ascii")
                      for rank in range(ranks)]

    def run(self, norm, steps):
        """Seconds per step, of rank 0: elapsed, then its parts where the program tells them."""
        for pipe in self.pipes:
            pipe.write(f"{norm} {steps}\n")
            pipe.flush()
        line = self.processes[0].stdout.readline()
        if not line:
            raise SystemExit(f"{shlex.join(self.processes[0].args)} ended early")
        return [float(word) / steps for word in line.split()]

    def close(self):
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            if process.wait(timeout=60) != 0:
                raise SystemExit(f"{shlex.join(process.args)} failed")


def measure(rows, arguments, folder):
    """Of NORMS and DDP: one list per round of the seconds of a step and of its parts."""
    ours, theirs, ranks = f"{folder}/ours{rows}", f"{folder}/ddp{rows}", arguments.ranks
    step_bench = arguments.build / "tests" / "step_bench"
    our_job = Job([["mpirun", "-n", str(ranks), str(step_bench), str(rows), ours]], ours, ranks)
    ddp_job = Job([[sys.executable, str(HERE / "ddp_step.py"), str(rows), theirs, str(rank),
                    str(ranks)] for rank in range(ranks)], theirs, ranks)
    times = {name: [] for name in (*NORMS, *DDP)}
    for i in range(WARM_UP + arguments.rounds):
        names = list(times)
        for name in names[i % len(names):] + names[:i % len(names)]:  # each follows each other
            block = ddp_job.run(name, DDP_STEPS) if name in DDP else our_job.run(name, STEPS)
            if i >= WARM_UP:
                times[name].append(block)
    our_job.close()
    ddp_job.close()
    return times


def elapsed(blocks):
    return [block[0] for block in blocks]


def ratio(above, below):
    """Median, lower and upper quartile of the rounds' ratios."""
    ratios = [a / b for a, b in zip(elapsed(above), elapsed(below))]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def table(rows, times):
    lines = [f"### {rows} samples per rank", "",
             "| | step | of no norm | quartiles | " + " | ".join(PARTS) + " |",
             "|---" * (4 + len(PARTS)) + "|"]
    for name, blocks in times.items():
        medians = [1e6 * statistics.median(column) for column in zip(*blocks)]
        middle, low, high = ratio(blocks, times["none"])
        cells = [f"{us:,.0f}" for us in medians[1:]] or [""] * len(PARTS)
        cells = [DDP.get(name, name), f"{medians[0]:,.0f} µs", f"{middle:.3f}",
                 f"{low:.3f}–{high:.3f}", *cells]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for name, label in DDP.items():
        middle, low, high = ratio(times[name], times["global"])
        lines.append(f"- {label}, of our sync BN: {middle:.1f} (quartiles {low:.1f}–{high:.1f})")
    return lines + [""]


def first_line(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def machine(load):
    """Lines that say when, on what, and with which libraries it was measured."""
    import torch
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
           if line.startswith("model name")]
    real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    return [
        f"- measured {datetime.date.today()}, load average before the run {load:.1f}"
        + (", at real-time priority (chrt -r 1)" if real_time else ""),
        f"- machine: {cpu[0]}, {len(cpu)} cores, Linux {platform.release()}",
        f"- PyTorch and LibTorch {torch.__version__}, Python {platform.python_version()}, "
        + first_line("mpirun", "--version")]


def conditions(arguments, load):
    return [
        "# The cost of a training step", "", *machine(load),
        f"- command: `tests/bench/compare.py --rows {' '.join(map(str, arguments.rows))} "
        f"--rounds {arguments.rounds} --ranks {arguments.ranks}`",
        f"- {arguments.ranks} ranks of one thread, 784-128-64-10, Adam, float32; "
        f"{arguments.rounds} rounds, a block is {STEPS} steps ({DDP_STEPS} of DDP)",
        "- both programs in one run, block after block in turn, one works while the other sleeps; "
        "µs per step of rank 0, median over rounds; ratios within a round, median over rounds",
        "- ours includes gathering the batch and scaling its pixels; DDP's batch lies ready; "
        "tuned: no buffer broadcast, gradients as bucket views, fused Adam", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parents[1] / "build")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--save", type=pathlib.Path)
    arguments = parser.parse_args()

    page = conditions(arguments, os.getloadavg()[0])
    print("\n".join(page))
    kept = True
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            times = measure(rows, arguments, folder)
        lines = table(rows, times)
        print("\n".join(lines), flush=True)
        page += lines
        if rows == CHECKED_ROWS:
            kept = (ratio(times["global"], times["none"])[0] <= MOST_FOR_SYNC
                    and ratio(times["ddp"], times["global"])[0] >= LEAST_FOR_DDP)
    if arguments.save:
        arguments.save.write_text("\n".join(page), encoding="utf-8")
    if arguments.check and not kept:
        sys.exit(f"at {CHECKED_ROWS} rows: expected sync BN at most {MOST_FOR_SYNC} times no norm, "
                 f"and DDP at least {LEAST_FOR_DDP} times sync BN")


if __name__ == "__main__":
    main()
