"""IDX files, read and written independently of src/data/idx.cpp."""

import gzip
import math
import struct

import numpy as np

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte",
         "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def read(path):
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    dims = content[3]
    sizes = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(sizes)


def header(*sizes, kind=8):
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


def write(path, array):
    path.write_bytes(header(*array.shape) + array.astype(np.uint8).tobytes())


def write_large(folder, train=250_000, test=10):
    """Four files of 28 x 28 images, 196 MB in all and holes on the disk: all pixels and labels 0."""
    for images, labels, count in [(NAMES[0], NAMES[1], train), (NAMES[2], NAMES[3], test)]:
        for name, sizes in [(images, (count, 28, 28)), (labels, (count,))]:
            with open(folder / name, "wb") as file:
                file.write(header(*sizes))
                file.truncate(file.tell() + math.prod(sizes))
    return folder


def write_tiny(folder, train=40, test=10):
    """Four files of a few small images with all ten labels."""
    random = np.random.default_rng(1)
    for images, labels, count in [(NAMES[0], NAMES[1], train), (NAMES[2], NAMES[3], test)]:
        write(folder / images, random.integers(0, 256, (count, 6, 5)))
        write(folder / labels, np.arange(count) % 10)
    return folder
