"""The reference: the run of a config.ini by Python PyTorch, in one process on whole batches.

Sync BN is `torch.nn.BatchNorm1d` as it is. Groups of M samples are BatchNorm1d's normalization, one
group after the other, with running statistics averaged over the batch's groups by their samples.
Initial weights are given; the order of samples and the dropout masks are recomputed from the seed.
"""

import copy
import dataclasses
import math

import numpy as np
import torch
from philox import DROPOUT, ORDER, RandomStream
from torch import nn
from torch.nn import functional


class GroupedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over groups of consecutive samples; `sizes` maps a batch's size to theirs."""

    def __init__(self, features, sizes, correction, **settings):
        super().__init__(features, **settings)
        self.sizes, self.correction = sizes, correction

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        groups = x.split(self.sizes(len(x)))
        with torch.no_grad():
            self.num_batches_tracked += 1
            weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            mean = sum(g.mean(0) * len(g) for g in groups) / len(x)
            variance = sum(g.var(0, correction=self.correction) * len(g) for g in groups) / len(x)
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance, weight)
        return torch.cat([functional.batch_norm(g, None, None, self.weight, self.bias, True,
                                                eps=self.eps) for g in groups])


class Dropout(nn.Module):
    def __init__(self, probability, seed, index):
        super().__init__()
        self.probability, self.seed, self.index, self.step = probability, seed, index, 0

    def forward(self, x):
        if not self.training:
            return x
        random = RandomStream(self.seed, DROPOUT, (self.index << 48) ^ self.step)
        blocks = -(-x.shape[1] // 4)
        units = np.stack(random.blocks(np.arange(len(x) * blocks)), 1).reshape(len(x), -1)
        kept = torch.from_numpy(units[:, : x.shape[1]] >= int(self.probability * 2**32))
        return x * kept / (1 - self.probability)


def group_sizes(norm_batch, parts):
    """Maps the size of a batch to those of its statistics groups."""
    def sizes(batch):
        if norm_batch == "global":
            return [batch]
        if norm_batch == "local":
            cuts = [batch * r // parts for r in range(parts + 1)]
            return [end - begin for begin, end in zip(cuts, cuts[1:]) if end > begin]
        group = int(norm_batch)
        return [min(group, batch - begin) for begin in range(0, batch, group)]
    return sizes


def build(config, parts=1, inputs=784):
    """The network of a config.ini as nn.Sequential, in the layout of model.safetensors."""
    model, norm = config["model"], config["norm"]
    activation = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[model["activation"]]
    biased = norm["running_variance"] == "biased"

    def make_norm(features):
        if norm["kind"] == "none":
            return []
        if norm["kind"] == "layer":
            return [nn.LayerNorm(features, eps=norm.getfloat("eps"))]
        settings = {"eps": norm.getfloat("eps"), "momentum":
                    None if norm.getboolean("cumulative") else norm.getfloat("momentum")}
        if norm["batch"] == "global" and not biased:
            return [nn.BatchNorm1d(features, **settings)]
        return [GroupedBatchNorm(features, group_sizes(norm["batch"], parts), 0 if biased else 1,
                                 **settings)]

    layers, features = [], inputs
    for width in map(int, filter(None, model["hidden"].split(","))):
        layers.append(nn.Linear(features, width))
        pre = norm["position"] == "pre"
        layers += [*make_norm(width), activation()] if pre else [activation(), *make_norm(width)]
        if model.getfloat("dropout") > 0:
            depth = sum(isinstance(layer, nn.Linear) for layer in layers)
            layers.append(Dropout(model.getfloat("dropout"), config.getint("run", "seed"), depth))
        features = width
    layers.append(nn.Linear(features, 10))
    if norm.getboolean("output"):
        layers += make_norm(10)
    return nn.Sequential(*layers).to(getattr(torch, config["run"]["dtype"]))


def make_optimizer(train, parameters):
    parameters = list(parameters)
    if train["decay"] == "weights":  # the usual two groups
        parameters = [{"params": [p for p in parameters if p.ndim > 1]},
                      {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0}]
    get, settings = train.getfloat, {"weight_decay": train.getfloat("weight_decay")}
    if train["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, momentum=get("momentum"), lr=1,
                               nesterov=train.getboolean("nesterov"), **settings)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train["optimizer"]]
    return kind(parameters, betas=(get("beta1"), get("beta2")), eps=get("adam_eps"), **settings)


def learning_rate(train, step, steps_per_epoch):
    ratio = train.getint("batch") / train.getint("lr_reference")
    rate = train.getfloat("lr") * {"none": 1, "linear": ratio, "sqrt": ratio**0.5}[train["lr_rule"]]
    if step < train.getint("warmup_steps"):
        return rate * (step + 1) / train.getint("warmup_steps")
    if train["schedule"] == "cosine":
        total = train.getint("epochs") * steps_per_epoch
        return rate * (1 + math.cos(math.pi * step / total)) / 2
    if train["schedule"] == "step":
        passed = [m for m in train["milestones"].split(",") if step >= int(m) * steps_per_epoch]
        return rate * train.getfloat("gamma") ** len(passed)
    return rate


def scaled(images, config):
    if config["data"]["scale"] == "binary":
        bright = torch.from_numpy(images.copy()).flatten(1).double() / 255 > 0.5
        return bright.to(getattr(torch, config["run"]["dtype"]))
    shift, divisor = {"unit": (0, 1), "half": (0.5, 0.5), "standard": (0.1307, 0.3081)}[
        config["data"]["scale"]]
    x = (torch.from_numpy(images.copy()).flatten(1).double() / 255 - shift) / divisor
    return x.to(getattr(torch, config["run"]["dtype"]))


def recompute(model, x, batch):
    """Replaces running statistics by those of each norm's inputs over all of x in its order."""
    probe, inputs = copy.deepcopy(model).eval(), {}
    for name, layer in probe.named_modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.train().register_forward_pre_hook(
                lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    for part in x.split(batch):
        probe(part)
    for name, parts in inputs.items():
        layer, seen = model.get_submodule(name), torch.cat(parts)
        layer.running_mean.copy_(seen.mean(0))
        layer.running_var.copy_(seen.var(0, correction=getattr(layer, "correction", 1)))


@torch.no_grad()
def evaluate(model, config, x, labels, train_x):
    """Loss and number of correct answers, with the statistics of norm.eval."""
    model, mode = copy.deepcopy(model).eval(), config["norm"]["eval"]
    batch = config.getint("train", "batch")
    for layer in model.modules():
        if mode == "batch" and isinstance(layer, nn.BatchNorm1d):
            layer.train()
    if mode == "recomputed":
        recompute(model, train_x, batch)
    logits = torch.cat([model(part) for part in x.split(batch)]).double()
    return float(functional.cross_entropy(logits, labels)), int((logits.argmax(1) == labels).sum())


@dataclasses.dataclass
class Outcome:
    train_loss: list
    val_loss: list
    val_accuracy: list
    lr: list
    state: dict


def train(config, initial, data, parts=1):
    """`initial`: a state_dict; `data`: images and labels of both splits as uint8 arrays, of which
    data.limit takes its part."""
    options, limit = config["train"], config.getint("data", "limit") or None
    x, val_x = scaled(data[0][:limit], config), scaled(data[2], config)
    labels, val_labels = (torch.from_numpy(d.astype(np.int64)) for d in (data[1][:limit], data[3]))
    model = build(config, parts, x.shape[1])
    model.load_state_dict(initial, strict=True)
    optimizer = make_optimizer(options, model.parameters())
    batch, outcome, step = options.getint("batch"), Outcome([], [], [], [], {}), 0
    for epoch in range(options.getint("epochs")):
        order = torch.tensor(RandomStream(config.getint("run", "seed"), ORDER, epoch)
                             .permutation(len(x)))
        batches = [b for b in order.split(batch)
                   if len(b) == batch or not options.getboolean("drop_last")]
        total = 0.0
        for rows in batches:
            for layer in model.modules():
                if isinstance(layer, Dropout):
                    layer.step = step
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, step, len(batches))
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[rows]), labels[rows])
            loss.backward()
            if options.getfloat("clip") > 0:
                nn.utils.clip_grad_norm_(model.parameters(), options.getfloat("clip"))
            optimizer.step()
            total += loss.item() * len(rows)
            step += 1
        outcome.train_loss.append(total / sum(map(len, batches)))
        outcome.lr.append(optimizer.param_groups[0]["lr"])
        loss, correct = evaluate(model, config, val_x, val_labels, x)
        outcome.val_loss.append(loss)
        outcome.val_accuracy.append(correct / len(val_x))
    if config["norm"]["eval"] == "recomputed":
        with torch.no_grad():
            recompute(model, x, batch)
    outcome.state = model.state_dict()
    return outcome
