"""Each choice of layer, statistics, optimizer and schedule means what it means in PyTorch."""

import pytest
from compare import FLOAT64, assert_same_float64, assert_same_losses

# SGD: Adam divides a gradient by its own size, which makes rounding of all but none.
SMALL = {"run.dtype": "float64", "model.hidden": "32,16", "train.batch": 64, "data.limit": 300,
         "train.epochs": 4, "train.optimizer": "sgd", "train.lr": 0.05}
ADAM = {"train.optimizer": "adam", "train.lr": 1e-3}
STEP = {"train.schedule": "step", "train.milestones": "1,3", "train.gamma": 0.3}

CASES = {
    "no norm": {"norm.kind": "none"},
    "binary": {"norm.kind": "none", "data.scale": "binary"},
    "layer norm": {"norm.kind": "layer", "norm.eps": 1e-3},
    "layer norm after a tanh": {"norm.kind": "layer", "norm.position": "post",
                                "model.activation": "tanh"},
    "post": {"norm.position": "post"},
    "output norm": {"norm.output": True},
    "post and output, of groups": {"norm.position": "post", "norm.output": True, "norm.batch": 16},
    "biased": {"norm.running_variance": "biased", "norm.momentum": 0.01, "norm.eps": 1e-3},
    "biased, of groups": {"norm.running_variance": "biased", "norm.batch": 16},
    "cumulative": {"norm.cumulative": True},
    "cumulative, of groups": {"norm.cumulative": True, "norm.batch": 32},
    "recomputed": {"norm.eval": "recomputed"},
    "recomputed, of groups, biased": {"norm.eval": "recomputed", "norm.batch": 16,
                                      "norm.running_variance": "biased"},
    "evaluated by batch": {"norm.eval": "batch"},
    "evaluated by groups": {"norm.eval": "batch", "norm.batch": 16},
    "sigmoid": {"model.activation": "sigmoid", "data.scale": "half"},
    "tanh": {"model.activation": "tanh", "data.scale": "standard"},
    "one layer": {"model.hidden": "", "norm.output": True, "model.init": "normal"},
    "dropout": {"model.dropout": 0.3, "model.hidden": "33,18"},
    "sgd": {"train.momentum": 0},
    "sgd with momentum and decay": {"train.weight_decay": 0.01},
    "sgd of Nesterov, by step": {**STEP, "train.nesterov": True, "train.weight_decay": 0.01},
    "adam with decay, by step": {**ADAM, **STEP, "train.weight_decay": 0.01,
                                 "train.adam_eps": 1e-6},
    "adamw, by cosine": {**ADAM, "train.optimizer": "adamw", "train.weight_decay": 0.05,
                         "train.schedule": "cosine", "train.beta1": 0.8, "train.beta2": 0.99},
    "sgd with decay of weights alone": {"train.weight_decay": 0.03, "train.decay": "weights"},
    "adam with decay of weights alone": {**ADAM, "train.weight_decay": 0.03,
                                         "train.decay": "weights", "train.adam_eps": 1e-6},
    "adamw with decay of weights alone": {**ADAM, "train.optimizer": "adamw", "train.decay":
                                          "weights", "train.weight_decay": 0.5},
    "layer norm, adamw with decay of weights alone": {
        **ADAM, "norm.kind": "layer", "train.optimizer": "adamw", "train.decay": "weights",
        "train.weight_decay": 0.5},
    "clipped, after a warm-up": {"train.clip": 0.5, "train.warmup_steps": 7,
                                 "train.schedule": "cosine"},
    "linear rule": {"train.lr_rule": "linear", "train.lr_reference": 256, "model.init": "he"},
    "square root rule": {**ADAM, "train.lr_rule": "sqrt", "train.lr_reference": 256,
                         "model.init": "glorot"},
}


@pytest.mark.parametrize("name", CASES)
def test_as_in_pytorch(golden, name):
    run, outcome = golden.both({**SMALL, **CASES[name]}, 3 if "groups" in name else 2)
    assert_same_losses(run, outcome, FLOAT64)
    assert_same_float64(run.state, outcome.state)
    assert run.column("val_accuracy") == outcome.val_accuracy
