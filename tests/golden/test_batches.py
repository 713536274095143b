"""What is trained depends on (B, M), however the ranks share a batch: uneven and empty shares,
short last batches, statistics groups that cut across ranks."""

import pytest
from compare import FLOAT64, assert_same_float64, assert_same_losses, states_apart

# SGD: Adam divides a gradient by its own size, which makes rounding of all but none.
FLOATS = {"run.dtype": "float64", "model.hidden": "32,16", "train.epochs": 4,
          "train.optimizer": "sgd", "train.lr": 0.05}


def agrees(golden, options, ranks):
    run, outcome = golden.both({**FLOATS, **options}, ranks)
    assert_same_losses(run, outcome, FLOAT64)
    assert_same_float64(run.state, outcome.state)
    assert run.column("val_accuracy") == outcome.val_accuracy
    return run


@pytest.mark.parametrize("ranks", [3, 4])
def test_short_last_batch_with_empty_shares(golden, ranks):
    """128, 128 and 2 samples: a rank or two hold none of the last batch, yet join its norms."""
    run = agrees(golden, {"train.batch": 128, "data.limit": 258}, ranks)
    assert run.column("samples") == [258, 516, 774, 1032]


def test_short_last_batch_dropped(golden):
    run = agrees(golden, {"train.batch": 128, "data.limit": 300, "train.drop_last": True}, 3)
    assert run.column("samples") == [256, 512, 768, 1024]


@pytest.mark.parametrize("norm_batch", [24, 48, 96, 6])
def test_groups_across_uneven_shares(golden, norm_batch):
    """B = 96 on 3 ranks: shares of 32, groups of 24 or 48; and a last batch of 74, so that its
    shares are uneven and its last group is short."""
    agrees(golden, {"train.batch": 96, "norm.batch": norm_batch, "data.limit": 266}, 3)


def test_groups_of_two(golden):
    """As above; a large eps, since two samples that are all but equal blow rounding up."""
    agrees(golden, {"train.batch": 96, "norm.batch": 2, "norm.eps": 0.1, "data.limit": 266}, 3)


@pytest.mark.parametrize("reduce", ["canonical", "fast"])
def test_local_parts_that_are_uneven(golden, reduce):
    """Canonical: 16 shards of 6 or 7 samples, at last of 3 or 4; fast: 3 shares of 33 or 34."""
    agrees(golden, {"train.batch": 100, "norm.batch": "local", "data.limit": 350,
                    "run.reduce": reduce}, 3)


@pytest.mark.parametrize("norm_batch", [16, 64])
def test_every_number_of_ranks_agrees(golden, norm_batch):
    """M = 16 lies within a rank at R = 1, 2, 4; M = 64 spans two ranks at R = 4."""
    options = {"train.batch": 128, "norm.batch": norm_batch, "data.limit": 600}
    runs = [agrees(golden, options, ranks) for ranks in (1, 2, 4)]
    for run in runs[1:]:
        assert_same_float64(run.state, runs[0].state)
    other = golden.run({**FLOATS, **options, "norm.batch": 32}, 2)
    assert states_apart(other.state, runs[0].state) > (1e-2, "")
