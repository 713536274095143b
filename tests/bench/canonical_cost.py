#!/usr/bin/env python3
"""What the same bits on any number of ranks cost: run.reduce = canonical against fast.

    canonical_cost.py --build BUILD [--shard-rows 8 32 64] [--ranks 1 2 4] [--rounds 40]
                      [--check] [--save FILE]

Both trainers are in one process per rank (step_bench.cpp) and see the same data; their blocks of
steps take turns, and who goes first changes every round. A ratio is that of the two blocks of one
round; told is the median over rounds. --check: exit code 1 unless the fastest block of canonical
takes at most LIMITS of the fastest of fast, which a busy machine disturbs least; a measurement that
misses is repeated up to twice.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

import compare

SHARDS = 16
LIMITS = {8: 2.0, 64: 1.3}  # rows per shard: at most so many times fast
NAMES = ("fast", "global")
ATTEMPTS = 3


def measure(rows, ranks, arguments):
    """One list per contender: of each round, the seconds of a step and of its parts."""
    share = SHARDS * rows // ranks
    steps = max(10, 100 // rows)
    with tempfile.TemporaryDirectory() as folder:
        control = f"{folder}/control"
        program = str(arguments.build / "tests" / "step_bench")
        job = compare.Job([["mpirun", "-n", str(ranks), program, str(share), control]], control,
                          ranks)
        times = {name: [] for name in NAMES}
        for i in range(compare.WARM_UP + arguments.rounds):
            for name in NAMES if i % 2 else reversed(NAMES):
                block = job.run(name, steps)
                if i >= compare.WARM_UP:
                    times[name].append(block)
        job.close()
    return times


def of_fastest(times):
    return min(compare.elapsed(times["global"])) / min(compare.elapsed(times["fast"]))


def row(rows, ranks, times):
    cells = [str(rows), str(SHARDS * rows), str(ranks)]
    cells += [f"{1e6 * statistics.median(compare.elapsed(times[name])):,.0f} µs" for name in NAMES]
    middle, low, high = compare.ratio(times["global"], times["fast"])
    cells += [f"**{middle:.3f}**", f"{low:.3f}–{high:.3f}", f"{of_fastest(times):.3f}"]
    parts = [[1e6 * statistics.median(column) for column in list(zip(*times[name]))[1:]]
             for name in NAMES]
    cells += [f"{fast:,.0f} → {canonical:,.0f}" for fast, canonical in zip(*parts)]
    return "| " + " | ".join(cells) + " |"


def kept(rows, ranks, times, arguments):
    """Whether the limit holds, in one of ATTEMPTS measurements."""
    for attempt in range(ATTEMPTS):
        if attempt > 0:
            times = measure(rows, ranks, arguments)
            print(row(rows, ranks, times), flush=True)
        if of_fastest(times) <= LIMITS[rows]:
            return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=compare.HERE.parents[1] / "build")
    parser.add_argument("--shard-rows", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--save", type=pathlib.Path)
    arguments = parser.parse_args()

    page = ["# The cost of the same bits", "", *compare.machine(os.getloadavg()[0]),
            f"- command: `tests/bench/canonical_cost.py --shard-rows "
            f"{' '.join(map(str, arguments.shard_rows))} --ranks "
            f"{' '.join(map(str, arguments.ranks))} --rounds {arguments.rounds}`",
            f"- sync BN, 784-128-64-10, Adam, float32, {SHARDS} shards, one thread per rank; "
            f"{arguments.rounds} rounds",
            "- both in one process, on the same data, block after block in turn; µs per step of "
            "rank 0, median over rounds; ratios within a round, median over rounds; parts are "
            "fast → canonical; of the fastest: ratio of the shortest blocks", "",
            "| rows per shard | B | ranks | fast | canonical | ratio | quartiles | of the fastest | "
            + " | ".join(compare.PARTS) + " |", "|---" * (8 + len(compare.PARTS)) + "|"]
    print("\n".join(page), flush=True)
    missed = []
    for ranks in arguments.ranks:
        for rows in arguments.shard_rows:
            times = measure(rows, ranks, arguments)
            page.append(row(rows, ranks, times))
            print(page[-1], flush=True)
            if arguments.check and rows in LIMITS and not kept(rows, ranks, times, arguments):
                missed.append(f"{LIMITS[rows]} times fast at {rows} rows a shard, {ranks} ranks")
    if arguments.save:
        arguments.save.write_text("\n".join(page) + "\n", encoding="utf-8")
    if missed:
        sys.exit(f"canonical costs more than {', and more than '.join(missed)}, "
                 f"in {ATTEMPTS} measurements")


if __name__ == "__main__":
    main()
