"""The same training step in Python: DistributedDataParallel over gloo with a hand-written sync BN.

    ddp_step.py ROWS CONTROL RANK RANKS

What a user of PyTorch writes for CPUs, where torch.nn.SyncBatchNorm refuses to run: its algorithm
(an all_gather of mean, variance and count forward, an all_reduce of two sums backward) as an
autograd function. Obeys the file CONTROL.<RANK> as step_bench.cpp does, with two contenders:

    ddp        DistributedDataParallel and Adam as they come
    ddp-tuned  no broadcast of buffers (sync BN keeps them equal), gradients that are views of the
               bucket, the fused Adam

The batch lies ready in memory. The rate is 0, as in step_bench.cpp.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
from torch import nn


class SyncNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        features = x.size(1)
        var, mean = torch.var_mean(x, 0, correction=0)
        count = torch.full((1,), x.size(0), dtype=x.dtype)
        mine = torch.cat([mean, var, count])
        gathered = torch.empty(dist.get_world_size() * mine.numel(), dtype=x.dtype)
        dist.all_gather_into_tensor(gathered, mine)
        means, variances, counts = gathered.view(-1, mine.numel()).split([features, features, 1], 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        var = ((variances + (means - mean).square()) * counts).sum(0) / total
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (total / (total - 1)), momentum)
        inv_std = torch.rsqrt(var + eps)
        normalised = (x - mean) * inv_std
        ctx.save_for_backward(normalised, weight, inv_std, total)
        return torch.addcmul(bias, normalised, weight)

    @staticmethod
    def backward(ctx, dy):
        normalised, weight, inv_std, total = ctx.saved_tensors
        sum_dy = dy.sum(0)
        sum_dy_normalised = (dy * normalised).sum(0)
        sums = torch.stack([sum_dy, sum_dy_normalised])
        dist.all_reduce(sums)
        sums /= total
        dx = (dy - sums[0] - normalised * sums[1]) * (weight * inv_std)
        return dx, sum_dy_normalised, sum_dy, None, None, None, None


class SyncBatchNorm(nn.BatchNorm1d):
    def forward(self, x):
        return SyncNorm.apply(x, self.weight, self.bias, self.running_mean, self.running_var,
                              self.momentum, self.eps)


def make_step(rows, ddp_options, adam_options):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(784, 128), SyncBatchNorm(128), nn.ReLU(),
                          nn.Linear(128, 64), SyncBatchNorm(64), nn.ReLU(), nn.Linear(64, 10))
    model = nn.parallel.DistributedDataParallel(model, **ddp_options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, **adam_options)
    loss_function = nn.CrossEntropyLoss()
    x, labels = torch.rand(rows, 784), torch.randint(0, 10, (rows,))

    def step():
        optimizer.zero_grad()
        loss_function(model(x), labels).backward()
        optimizer.step()

    return step


def main():
    rows, control, rank, ranks = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{control}.store", rank=rank,
                            world_size=ranks)
    steps = {
        "ddp": make_step(rows, {}, {}),
        "ddp-tuned": make_step(rows, {"broadcast_buffers": False, "gradient_as_bucket_view": True},
                               {"fused": True})}
    with open(f"{control}.{rank}", encoding="ascii") as commands:
        for line in commands:
            name, count = line.split()
            step = steps[name]
            dist.barrier()
            start = time.perf_counter()
            for _ in range(int(count)):
                step()
            if rank == 0:
                print(time.perf_counter() - start, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
