#!/usr/bin/env python3
"""What it costs that ranks compare their collectives (src/comm/contract.hpp).

    contract_cost.py --build BUILD [--before BUILD] [--rows 64] [--ranks 2] [--rounds 40]
                     [--check] [--save FILE]

Blocks of steps of sync BN take turns: run.check = light and full in one program, and with --before
the same steps in the program of another build, of a commit without the contract. A ratio is that of
two blocks of one round; told is the median over rounds, and the ratio of the fastest blocks, which
a busy machine disturbs least. --check: exit code 1 unless light costs at most 1.01 of before, by
the fastest.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

import compare

STEPS, MOST = 50, 1.01


def measure(arguments, folder):
    def job(build, name):
        control = f"{folder}/{name}"
        program = str(build / "tests" / "step_bench")
        return compare.Job([["mpirun", "-n", str(arguments.ranks), program, str(arguments.rows),
                             control]], control, arguments.ranks)

    ours = job(arguments.build, "ours")
    turns = {"light": (ours, "global"), "full": (ours, "full")}
    if arguments.before:
        turns = {"before": (job(arguments.before, "before"), "global"), **turns}
    times = {name: [] for name in turns}
    for i in range(compare.WARM_UP + arguments.rounds):
        names = list(turns)
        for name in names[i % len(names):] + names[:i % len(names)]:
            job_of_name, contender = turns[name]
            block = job_of_name.run(contender, STEPS)
            if i >= compare.WARM_UP:
                times[name].append(block)
    for one in {id(j): j for j, _ in turns.values()}.values():
        one.close()
    return times


def fastest(times, name):
    return min(compare.elapsed(times[name]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=compare.HERE.parents[1] / "build")
    parser.add_argument("--before", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--save", type=pathlib.Path)
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        times = measure(arguments, folder)
    base = next(iter(times))
    page = ["# The cost of comparing collectives", "", *compare.machine(load),
            f"- sync BN, 784-128-64-10, Adam, float32, {arguments.rows} samples per rank, "
            f"{arguments.ranks} ranks of one thread; {arguments.rounds} rounds of blocks of {STEPS} "
            "steps, which take turns",
            f"- ratios to `{base}`: of two blocks of one round, median and quartiles; of the fastest "
            "blocks", "",
            "| | step, median | fastest | ratio | quartiles | of the fastest |", "|---" * 6 + "|"]
    for name, blocks in times.items():
        middle, low, high = compare.ratio(blocks, times[base])
        page.append(f"| {name} | {1e6 * statistics.median(compare.elapsed(blocks)):,.0f} µs "
                    f"| {1e6 * fastest(times, name):,.1f} µs | **{middle:.3f}** "
                    f"| {low:.3f}–{high:.3f} "
                    f"| {fastest(times, name) / fastest(times, base):.3f} |")
    print("\n".join(page))
    if arguments.save:
        arguments.save.write_text("\n".join(page) + "\n", encoding="utf-8")
    if arguments.check and fastest(times, "light") > MOST * fastest(times, base):
        sys.exit(f"run.check = light costs more than {MOST} times no comparison")


if __name__ == "__main__":
    main()
