"""A run of the trainer and the same run by the reference, side by side."""

import pathlib

import pytest
import reference
import torch

from support import idx, trainer


class Golden:
    """Both sides of runs on one folder of data."""

    def __init__(self, data, scratch):
        self.data, self.scratch = data, scratch
        self.arrays = [idx.read(data / name) for name in idx.NAMES]
        self.initial, self.outcomes, self.runs = {}, {}, 0

    def folder(self):
        self.runs += 1
        return self.scratch / str(self.runs)

    def run(self, options, ranks, **settings):
        return trainer.train(self.folder(), {"data.dir": self.data, **options}, ranks, **settings)

    def initial_state(self, options):
        """What the trainer starts from; it depends on these options alone."""
        shaping = {key: options[key] for key in sorted(options)
                   if key in ("run.seed", "run.dtype", "norm.kind", "norm.position", "norm.output",
                              "model.hidden", "model.init", "model.dropout")}
        key = str(shaping)
        if key not in self.initial:
            self.initial[key] = self.run({**shaping, "train.max_steps": 0}, None).state
        return self.initial[key]

    def reference(self, config, options, ranks):
        """Kept: only local groups depend on how many parts a batch has, shards or ranks' shares."""
        parts = ranks if config["run"]["reduce"] == "fast" else int(config["run"]["shards"])
        key = str((sorted(options.items()), parts if options.get("norm.batch") == "local" else 0))
        if key not in self.outcomes:
            self.outcomes[key] = reference.train(config, self.initial_state(options), self.arrays,
                                                 parts)
        return self.outcomes[key]

    def both(self, options, ranks):
        run = self.run(options, ranks)
        return run, self.reference(run.config, options, ranks)


@pytest.fixture(scope="session")
def golden(small_mnist, tmp_path_factory):
    torch.set_num_threads(1)
    return Golden(pathlib.Path(small_mnist), tmp_path_factory.mktemp("golden"))
