"""Training on R ranks with synchronized batch norm is torch.nn.BatchNorm1d on the whole batch."""

import pytest
from compare import FLOAT64, apart, assert_same_float64, assert_same_losses, idle, states_apart

B, STEPS = 128, 50
EPOCHS_OF_5 = {"train.batch": B, "data.limit": 5 * B, "train.epochs": STEPS // 5}
SGD = {"train.optimizer": "sgd", "train.lr": 0.05}

# float32 after 50 steps, largest difference seen at 1 to 4 ranks → bound:
#            train_loss        val_loss          weights, statistics
#   Adam     1.5e-8 → 1e-7     5.7e-5 → 5e-4     1.5e-5 → 1e-4
#   SGD      1.5e-8 → 1e-7     7.2e-8 → 5e-7     7.3e-7 → 5e-6
# Adam's validation loss sees the walk of the idle biases (compare.py) through the running means.
TRAIN_LOSS, ADAM_VAL_LOSS, SGD_VAL_LOSS, ADAM_STATE, SGD_STATE = 1e-7, 5e-4, 5e-7, 1e-4, 5e-6
FLOAT32_RANKS = [3, *(pytest.param(ranks, marks=pytest.mark.nightly) for ranks in (1, 2, 4))]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_float64(golden, ranks):
    run, outcome = golden.both({**EPOCHS_OF_5, "run.dtype": "float64"}, ranks)
    assert run.rows[-1]["step"] == STEPS
    assert_same_losses(run, outcome, FLOAT64)
    assert_same_float64(run.state, outcome.state)
    assert run.column("val_accuracy") == outcome.val_accuracy


@pytest.mark.parametrize("ranks", FLOAT32_RANKS)
def test_float32_adam(golden, ranks):
    run, outcome = golden.both(EPOCHS_OF_5, ranks)
    assert_same_losses(run, outcome, TRAIN_LOSS, ADAM_VAL_LOSS)
    assert states_apart(run.state, outcome.state, without=idle(outcome.state)) < (ADAM_STATE, "")


@pytest.mark.parametrize("ranks", FLOAT32_RANKS)
def test_float32_sgd(golden, ranks):
    run, outcome = golden.both({**EPOCHS_OF_5, **SGD}, ranks)
    assert_same_losses(run, outcome, TRAIN_LOSS, SGD_VAL_LOSS)
    assert states_apart(run.state, outcome.state) < (SGD_STATE, "")


def test_the_loss_of_each_of_50_steps(golden):
    """Epochs of one step, so that train_loss is that step's loss."""
    options = {"train.batch": B, "data.limit": B, "train.epochs": STEPS, "run.dtype": "float64"}
    run, outcome = golden.both(options, 3)
    assert run.column("step") == list(range(1, STEPS + 1))
    assert_same_losses(run, outcome, FLOAT64)


@pytest.mark.parametrize("norm_batch", [str(B // 2), "local"])
def test_half_the_statistics_differ(golden, norm_batch):
    """The negative control: M = B/2 is another function, and equals its own reference."""
    options = {**EPOCHS_OF_5, "run.dtype": "float64", "run.reduce": "fast"}
    halves, reference_of_halves = golden.both({**options, "norm.batch": norm_batch}, 2)
    _, whole = golden.both(options, 2)
    assert apart(halves.column("train_loss"), whole.train_loss) > 1e-3
    assert states_apart(halves.state, whole.state) > (1e-2, "")
    assert_same_losses(halves, reference_of_halves, FLOAT64)
    assert_same_float64(halves.state, reference_of_halves.state)
