"""How far two runs are apart."""

import torch

FLOAT64 = 1e-10


def apart(a, b, least=1e-300):
    """max |a − b| / max |b|; `least` stands for a smaller max |b|."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    assert a.shape == b.shape and torch.isfinite(b).all()
    return float((a - b).abs().max() / b.abs().max().clamp_min(least))


def idle(state):
    """Biases just before a batch norm, which takes them out again, and the running means of what
    they shift. Such a bias has a gradient of 0 but for rounding, and Adam, which divides a
    gradient by its own size, lets it walk by that rounding."""
    means = [name for name in state if name.endswith("running_mean")]
    biases = [f"{int(name.split('.')[0]) - 1}.bias" for name in means]
    return {*means, *(name for name in biases if name in state)}


def states_apart(state, other, without=()):
    """The largest difference over the tensors of two state_dicts, and the name of that tensor. What
    begins at 0 and has no gradient but rounding (a shift before a norm) counts as of size 0.01."""
    assert state.keys() == other.keys()
    return max((apart(state[name], other[name], 0.01), name) for name in other
               if name not in without)


def assert_same_float64(state, other):
    """Each tensor to 1e-10 of its largest value; what walks, and may be all but 0, to 1e-10."""
    walks = idle(other)
    assert states_apart(state, other, without=walks) < (FLOAT64, "")
    for name in walks:
        assert float((state[name] - other[name]).abs().max()) < FLOAT64, name


def assert_same_losses(run, outcome, bound, val_bound=None):
    for name, limit in [("train_loss", bound), ("val_loss", val_bound or bound), ("lr", bound)]:
        assert apart(run.column(name), getattr(outcome, name)) < limit, name
