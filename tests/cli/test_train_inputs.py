"""Damaged, missing and unfit input files: each ends with its code and one sentence that names the
file, what was expected and what was found, and leaves older results alone."""

import gzip
import os

from support import idx
from support.refusals import Case, refusal_tests

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = idx.NAMES
PIXELS = 40 * 6 * 5
DAMAGED, MISSING = 65, 66


def edited(name, change, *more):
    """Words that name a good folder but for one file, changed by `change`(its bytes)."""
    def words(folder):
        path = idx.write_tiny(folder) / name
        path.write_bytes(change(path.read_bytes()))
        return ["--data.dir", folder, *more]
    return words


def of_idx(*more):
    return lambda folder: ["--data.name", "idx", "--data.dir", idx.write_tiny(folder), *more]


def several(folder):
    """Two sets with names of their own."""
    for path in list(idx.write_tiny(folder).iterdir()):
        path.rename(folder / f"c-{path.name}")
        (folder / f"a-b-{path.name}").write_bytes((folder / f"c-{path.name}").read_bytes())
    return ["--data.name", "idx", "--data.dir", folder]


def features(folder):
    """Samples of 30 numbers."""
    idx.write_tiny(folder)
    for name, count in [(IMAGES, 40), (TEST_IMAGES, 10)]:
        path = folder / name
        path.write_bytes(idx.header(count, 30) + path.read_bytes()[16:])
    return ["--data.name", "idx", "--data.dir", folder, "--train.batch", 20,
            "--data.augment", "crop"]


def zipped(name, change):
    def words(folder):
        path = idx.write_tiny(folder) / name
        path.with_suffix(".gz").write_bytes(change(path.read_bytes()))
        path.unlink()
        return ["--data.dir", folder]
    return words


def replaced(name, make):
    """As `edited`, the file replaced by what `make`(its path) makes."""
    def words(folder):
        path = idx.write_tiny(folder) / name
        path.unlink()
        make(path)
        return ["--data.dir", folder]
    return words


def damaged(words, *says):
    return Case(DAMAGED, says, words)


def missing(words, *says):
    return Case(MISSING, says, words)


def flipped(content):
    packed = bytearray(gzip.compress(content))
    packed[len(packed) // 2] ^= 0x10
    return bytes(packed)


def bomb(content):
    """The announced bytes, and 256 MB of zeros behind them."""
    return gzip.compress(content + bytes(256 << 20), compresslevel=1)


ALL, HUGE = str(16 + PIXELS), 0xFFFFFFFF
CASES = {
    "payload short by a byte": damaged(edited(IMAGES, lambda b: b[:-1]), IMAGES, ALL,
                                       str(15 + PIXELS)),
    "payload short by half": damaged(edited(IMAGES, lambda b: b[: 16 + PIXELS // 2]), IMAGES, ALL,
                                     str(16 + PIXELS // 2)),
    "no payload": damaged(edited(TEST_IMAGES, lambda b: b[:16]), TEST_IMAGES, "316", "16"),
    "labels short": damaged(edited(LABELS, lambda b: b[:-3]), LABELS, "48", "45"),
    "empty file": damaged(edited(IMAGES, lambda b: b""), IMAGES, "expected", "found 0"),
    "header cut": damaged(edited(TEST_LABELS, lambda b: b[:6]), TEST_LABELS, "expected", "found 6"),
    "huge sizes": damaged(edited(IMAGES, lambda b: idx.header(HUGE, HUGE, HUGE) + b[16:]), IMAGES,
                          "4294967295 x 4294967295 x 4294967295", "expected at most"),
    "huge count": damaged(edited(LABELS, lambda b: idx.header(HUGE) + b[8:]), LABELS, "4294967295",
                          "expected at most"),
    "wrong magic": damaged(edited(IMAGES, lambda b: b"\x89PNG" + b[4:]), IMAGES, "expected",
                           "found"),
    "floats": damaged(edited(IMAGES, lambda b: idx.header(40, 6, 5, kind=0x0D) + b[16:]), IMAGES,
                      "expected", "found"),
    "two dimensions": damaged(edited(IMAGES, lambda b: idx.header(40, 30) + b[16:]), IMAGES,
                              "expected", "found 2"),
    "labels as images": damaged(replaced(IMAGES, lambda p: p.write_bytes(
        idx.header(3) + bytes(3))), IMAGES, "expected 3", "found 1"),
    "trailing byte": damaged(edited(TEST_LABELS, lambda b: b + b"\0"), TEST_LABELS, "18", "19"),
    "gzip cut": damaged(zipped(IMAGES, lambda b: gzip.compress(b)[:-40]), f"{IMAGES}.gz"),
    "gzip flipped": damaged(zipped(IMAGES, flipped), f"{IMAGES}.gz"),
    "gzip trailing": damaged(zipped(IMAGES, lambda b: gzip.compress(b) + b"more"),
                             f"{IMAGES}.gz"),
    "gzip bomb": damaged(zipped(TEST_LABELS, bomb), f"{TEST_LABELS}.gz"),
    "label over 9": damaged(edited(LABELS, lambda b: b[:20] + b"\x0a" + b[21:]), LABELS,
                            "label 12 is 10", "expected 0 to 9"),
    "fewer labels": damaged(edited(LABELS, lambda b: idx.header(39) + b[8:-1]), LABELS,
                            "40 images", "39 labels"),
    "no images": damaged(edited(IMAGES, lambda b: idx.header(0, 6, 5)), IMAGES, "no images"),
    "other image size": damaged(edited(TEST_IMAGES, lambda b: idx.header(10, 5, 6) + b[16:]),
                                TEST_IMAGES, "5 x 6", "6 x 5"),
    "a folder": missing(replaced(IMAGES, lambda p: p.mkdir()), f"lacks '{IMAGES}'", f"{IMAGES}/",
                        TEST_IMAGES, "fetch_mnist.sh"),
    "a pipe": missing(replaced(IMAGES, os.mkfifo), IMAGES, "expected a regular file"),
    "a device": missing(replaced(LABELS, lambda p: p.symlink_to("/dev/zero")), LABELS,
                        "expected a regular file"),
    "a missing file": missing(replaced(TEST_LABELS, lambda p: None), TEST_LABELS, "fetch_mnist.sh",
                              "--data.dir"),
    "a missing folder": missing(lambda folder: ["--data.dir", folder / "none"], "none",
                                "fetch_mnist.sh", "--data.dir"),
    "several data sets": missing(several, "several data sets", "a-b'", "c'", "--data.dir"),
    "labels below the offset": damaged(of_idx("--data.label_offset", 1), LABELS, "label 0 is 0",
                                       "expected 1 to 9", "data.label_offset"),
    "more labels than classes": damaged(of_idx("--data.classes", 9), LABELS, "label 9 is 9",
                                        "expected 0 to 8", "data.classes"),
    "pixels all the same": damaged(edited(IMAGES, lambda b: b[:16] + bytes(PIXELS), "--data.name",
                                          "idx", "--data.scale", "standard",
                                          "--train.batch", 20),
                                   "data.scale = standard", "all 0"),
    "features to crop": Case(64, ("data.augment", "no rows and columns"), features),
    "idx without a folder": Case(64, ("data.dir", "data.name = idx"),
                                 lambda folder: ["--data.name", "idx"]),
}

TestRefusals = refusal_tests(CASES)
