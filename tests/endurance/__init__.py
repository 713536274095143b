"""What takes too long for every build: random kills, mutated inputs, a soak. tests/nightly.sh runs a share of each;
`python -m endurance.kills --help` and its fellows (with tests/ on PYTHONPATH) run as much as they are asked for."""

import argparse


def arguments(about, **defaults):
    """The numbers that a command line gives, --seed among them, which is printed so that a failure can be repeated."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**defaults, "seed": 1}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    return given
