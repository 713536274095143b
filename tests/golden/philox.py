"""The random numbers of src/base/random.cpp, implemented a second time: Philox4x32-10 (Salmon,
Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""

import numpy as np

ORDER, DROPOUT = 2, 3  # streams
LOW = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    c = [np.asarray(word, np.uint64) for word in counter]
    k = [np.uint64(word) for word in key]
    for _ in range(10):
        products = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        high, low = [p >> np.uint64(32) for p in products], [p & LOW for p in products]
        c = [high[1] ^ c[1] ^ k[0], low[1], high[0] ^ c[3] ^ k[1], low[0]]
        k = [(k[0] + np.uint64(0x9E3779B9)) & LOW, (k[1] + np.uint64(0xBB67AE85)) & LOW]
    return c


class RandomStream:
    def __init__(self, seed, stream, index):
        self.stream = stream
        counter = index & 0xFFFFFFFF, index >> 32, stream, 0
        self.key = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[:2]

    def blocks(self, positions):
        p = np.asarray(positions, np.uint64)
        constant = np.ones_like(p)
        return philox((p & LOW, p >> np.uint64(32), np.uint64(self.stream) * constant, constant),
                      self.key)

    def permutation(self, n):
        order, bounds = list(range(n)), np.arange(n, 1, -1, dtype=np.uint64)
        high, low = self.blocks(bounds)[:2]
        # (high·2^32 + low)·bound / 2^64
        picks = (high * bounds + (low * bounds >> np.uint64(32))) >> np.uint64(32)
        for i, j in zip(bounds.tolist(), picks.tolist()):
            order[i - 1], order[j] = order[j], order[i - 1]
        return order
