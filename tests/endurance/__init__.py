"""What takes too long for every build: random kills, mutated inputs, a soak. tests/nightly.sh runs a share of each;
`python -m endurance.kills --help` and its fellows (with tests/ on PYTHONPATH) run as much as they are asked for."""
