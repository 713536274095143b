"""launch/fetch_mnist.sh against a mirror on this machine that serves, cuts, lies, stalls and refuses.

SYNCBN_MNIST_DIR must name a folder with MNIST's four .gz files: a lie can only be told from the truth
by the true bytes. The script takes data/mnist beside its own folder, so each test runs a copy of it.
"""

import gzip
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "fetch_mnist.sh"
FILES = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
         "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
IMAGES = FILES[2]  # the file that most mirrors below get wrong
STALL_S = 2


@pytest.fixture(scope="session")
def truth():
    folder = os.environ.get("SYNCBN_MNIST_DIR", "")
    assert folder, "set SYNCBN_MNIST_DIR to a folder with MNIST's four .gz files"
    return {name: (pathlib.Path(folder) / name).read_bytes() for name in FILES}


class Mirror(http.server.ThreadingHTTPServer):
    """Serves `files`; `faults` maps a name to a function (handler, body, start) that answers instead."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = dict(files), {}, []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def starts(self, name):
        """The first byte asked for in each request for `name`."""
        return [start for asked, start in self.requests if asked == name]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.lstrip("/")
        ranged = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        start = int(ranged.group(1)) if ranged else 0
        self.server.requests.append((name, start))
        if name not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[name]
        self.server.faults.get(name, serve)(self, body, start)


def serve(handler, body, start, stop=None):
    """Answers as a file server does; `stop` ends the connection before that byte of the body."""
    if start >= len(body):
        handler.send_error(416)
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    handler.send_header("Content-Length", str(len(body) - start))
    handler.end_headers()
    handler.wfile.write(body[start:stop])


def cut_at(byte):
    """The first answer ends before `byte`; later ones are whole."""
    served = []

    def fault(handler, body, start):
        serve(handler, body, start, stop=None if served else byte)
        served.append(start)

    return fault


def cut_always(handler, body, start):
    serve(handler, body, start, stop=start + 1000)


def no_ranges(handler, body, _):
    serve(handler, body, 0)


def stall(handler, *_):
    handler.server.closing.wait(60)


def stall_in_body(handler, body, start):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[start : start + 2000])
    handler.server.closing.wait(60)


@pytest.fixture
def mirror(truth):
    server = Mirror(truth)
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


second_mirror = mirror  # pytest makes another instance under another name


class Checkout:
    """A folder with launch/fetch_mnist.sh in it, and what that sources."""

    def __init__(self, root):
        self.root, self.data = root, root / "data" / "mnist"
        (root / "launch").mkdir()
        self.script = shutil.copy2(SCRIPT, root / "launch")
        shutil.copy2(SCRIPT.parent / "setup.sh", root / "launch")

    def fetch(self, mirrors=(), **environment):
        """Runs the script (no fallback unless asked for); also takes the time."""
        inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        inherited.pop("SYNCBN_MNIST_DIR", None)
        urls = " ".join(m if isinstance(m, str) else m.url for m in mirrors)
        started = time.monotonic()
        result = subprocess.run(
            [self.script], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
            env={**inherited, "SYNCBN_MNIST_MIRRORS": urls, "SYNCBN_NO_FALLBACK": "1",
                 "SYNCBN_FETCH_TIMEOUT": str(STALL_S), **environment})
        result.seconds = time.monotonic() - started
        return result

    def assert_fetched(self, result, truth):
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"mnist {self.data}\n"
        self.assert_only_true_files(truth)
        assert sorted(p.name for p in self.data.glob("*-ubyte*")) == sorted(FILES)

    def assert_only_true_files(self, truth):
        for path in self.data.glob("*.gz"):
            assert gzip.decompress(path.read_bytes()) == gzip.decompress(truth[path.name])


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def assert_refused(checkout, result, truth, bad):
    """Failed, with a sentence that helps, and with nothing damaged under a final name."""
    assert result.returncode == 69, result.stderr
    assert result.stdout == ""
    assert "SYNCBN_MNIST_DIR" in result.stderr.splitlines()[-1]
    assert not (checkout.data / bad).exists()
    checkout.assert_only_true_files(truth)


def test_fetches_once_and_is_quick_the_second_time(checkout, mirror, truth):
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert [name for name, _ in mirror.requests] == FILES
    again = checkout.fetch([mirror])
    checkout.assert_fetched(again, truth)
    assert len(mirror.requests) == len(FILES)
    assert again.seconds < 2
    assert again.stderr == ""


def test_takes_the_named_folder(checkout, mirror):
    folder = os.environ["SYNCBN_MNIST_DIR"]
    result = checkout.fetch([mirror], SYNCBN_MNIST_DIR=folder)
    assert (result.returncode, result.stdout) == (0, f"mnist {os.path.abspath(folder)}\n")
    assert not mirror.requests


def test_takes_plain_files(checkout, mirror, truth, tmp_path):
    for name, body in truth.items():
        (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(body))
    result = checkout.fetch([mirror], SYNCBN_MNIST_DIR=str(tmp_path))
    assert (result.returncode, result.stdout) == (0, f"mnist {tmp_path}\n")


def test_says_what_is_wrong_with_the_named_folder(checkout, mirror, truth, tmp_path):
    for name, body in truth.items():
        (tmp_path / name).write_bytes(body)
    (tmp_path / FILES[3]).write_bytes(truth[FILES[3]][:-1])
    result = checkout.fetch([mirror], SYNCBN_MNIST_DIR=str(tmp_path))
    checkout.assert_fetched(result, truth)
    assert f"{tmp_path / FILES[3]} is not the published file" in result.stderr


def test_fetches_only_what_is_missing_or_damaged(checkout, mirror, truth):
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    mirror.requests.clear()
    (checkout.data / IMAGES).write_bytes(truth[IMAGES][:5000])
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert [name for name, _ in mirror.requests] == [IMAGES]


def test_resumes_where_the_connection_broke(checkout, mirror, truth):
    mirror.faults[IMAGES] = cut_at(100_000)
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert mirror.starts(IMAGES) == [0, 100_000]


def test_resumes_in_a_later_call(checkout, mirror, truth):
    mirror.faults[IMAGES] = cut_always
    assert_refused(checkout, checkout.fetch([mirror]), truth, IMAGES)
    del mirror.faults[IMAGES]
    mirror.requests.clear()
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert mirror.starts(IMAGES) == [3000]


@pytest.mark.parametrize("length", [1000, 3_000_000])
def test_starts_again_when_the_part_is_bad(checkout, mirror, truth, length):
    """A part that is no beginning of the file, shorter and longer than it."""
    checkout.data.mkdir(parents=True)
    (checkout.data / f"{IMAGES}.part").write_bytes(b"x" * length)
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert mirror.starts(IMAGES)[-1] == 0


def test_keeps_a_part_that_is_whole(checkout, mirror, truth):
    checkout.data.mkdir(parents=True)
    (checkout.data / f"{IMAGES}.part").write_bytes(truth[IMAGES])
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert mirror.starts(IMAGES) == []


def test_starts_again_when_the_mirror_cannot_resume(checkout, mirror, truth):
    checkout.data.mkdir(parents=True)
    (checkout.data / f"{IMAGES}.part").write_bytes(truth[IMAGES][:5000])
    mirror.faults[IMAGES] = no_ranges
    checkout.assert_fetched(checkout.fetch([mirror]), truth)
    assert mirror.starts(IMAGES) == [5000, 0]


def wrong_bytes(handler, body, start):
    """Valid gzip of the right size, one pixel changed."""
    changed = bytearray(gzip.decompress(body))
    changed[-1] ^= 1
    serve(handler, gzip.compress(bytes(changed), 1), start)


def bomb(handler, body, start, zeros=gzip.compress(bytes(20_000_000), 1)):  # made but once
    """Right at first, but inflating to far more."""
    serve(handler, body + 10 * zeros, start)


def page(handler, *_):
    serve(handler, b"<html><body>Please log in to the network.</body></html>", 0)


@pytest.mark.parametrize("lie", [wrong_bytes, page, bomb])
def test_a_lie_gets_no_final_name(checkout, mirror, truth, lie):
    mirror.faults[IMAGES] = lie
    result = checkout.fetch([mirror])
    assert_refused(checkout, result, truth, IMAGES)
    assert f"{IMAGES} is not the published file" in result.stderr
    assert not (checkout.data / f"{IMAGES}.part").exists()


@pytest.mark.parametrize("fault", [stall, stall_in_body])
def test_a_stalling_mirror_is_given_up_soon(checkout, mirror, truth, fault):
    mirror.faults[IMAGES] = fault
    result = checkout.fetch([mirror])
    assert_refused(checkout, result, truth, IMAGES)
    assert result.seconds < 3 * STALL_S + 4


def test_a_missing_file(checkout, mirror, truth):
    del mirror.files[IMAGES]
    result = checkout.fetch([mirror])
    assert_refused(checkout, result, truth, IMAGES)
    assert "404" in result.stderr
    assert mirror.starts(IMAGES) == [0]


@pytest.mark.parametrize("fault", [page, stall, cut_always, wrong_bytes])
def test_the_next_mirror_makes_up(checkout, mirror, second_mirror, truth, fault):
    mirror.faults[IMAGES] = fault
    checkout.assert_fetched(checkout.fetch([mirror, second_mirror]), truth)
    assert [name for name, _ in second_mirror.requests if name != IMAGES] == [FILES[3]]


def test_a_part_of_other_compression_from_the_first_mirror(checkout, mirror, second_mirror, truth):
    """Mirrors may compress differently: what was begun at one does not fit the other."""
    mirror.files[IMAGES] = gzip.compress(gzip.decompress(truth[IMAGES]), 1)
    mirror.faults[IMAGES] = cut_always
    checkout.assert_fetched(checkout.fetch([mirror, second_mirror]), truth)
    assert second_mirror.starts(IMAGES) == [3000, 0]


def test_no_mirror_answers(checkout, truth):
    result = checkout.fetch(["http://127.0.0.1:9", "http://127.0.0.1:9/other"])
    assert_refused(checkout, result, truth, IMAGES)
    assert "SYNCBN_NO_FALLBACK=1 forbids Fashion-MNIST" in result.stderr
    assert result.seconds < 5


def test_a_folder_that_cannot_be_made(checkout, mirror):
    (checkout.root / "data").write_text("a file where a folder should be")
    result = checkout.fetch([mirror])
    assert result.returncode == 69
    assert f"Cannot make the folder '{checkout.data}'" in result.stderr


def test_without_curl(checkout, mirror, tmp_path):
    """A PATH with all the script needs but curl."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ["bash", "env", "dirname", "gzip", "head", "sha256sum", "cat", "mkdir", "flock"]:
        (tools / tool).symlink_to(shutil.which(tool))
    result = checkout.fetch([mirror], PATH=str(tools))
    assert result.returncode == 69
    assert "curl is not installed" in result.stderr


class FakeApt(Checkout):
    """PATH with an apt-get that records its arguments and exits with `status`, and an id."""

    def install(self, user, status=100):
        tools = self.root / "bin"
        tools.mkdir(exist_ok=True)
        calls = self.root / "calls"
        fakes = {"apt-get": f'echo "$@" >>{calls}; exit {status}', "id": f"echo {user}"}
        for name, body in fakes.items():
            (tools / name).write_text(f"#!/bin/sh\n{body}\n")
            (tools / name).chmod(0o755)
        for tool in ["bash", "dirname", "gzip", "head", "sha256sum", "cat"]:
            if not (tools / tool).exists():
                (tools / tool).symlink_to(shutil.which(tool))
        result = self.fetch(["http://127.0.0.1:9"], PATH=str(tools), SYNCBN_NO_FALLBACK="")
        return result, calls.read_text().splitlines() if calls.exists() else []


FASHION = "/usr/share/datasets/fashion-mnist"


def place_package(checkout, folder):
    """Makes the copied script look for Debian's files in `folder`, and expect MNIST's own bytes."""
    script = pathlib.Path(checkout.script)
    text = script.read_text()
    assert text.count(FASHION) == 1
    mnist, fashion = (re.search(rf"^declare -rA {name}=\(.*?\)$", text, re.M | re.S).group()
                      for name in ("mnist", "fashion_mnist"))
    text = text.replace(FASHION, str(folder))
    script.write_text(text.replace(fashion, mnist.replace("mnist=", "fashion_mnist=", 1)))


def test_fashion_mnist_is_the_last_resort_and_named_as_such(checkout, truth, tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    for name, body in truth.items():
        (folder / name).write_bytes(body)
    place_package(checkout, folder)
    result = checkout.fetch(["http://127.0.0.1:9"], SYNCBN_NO_FALLBACK="")
    assert (result.returncode, result.stdout) == (0, f"fashion-mnist {folder}\n")
    assert "this is Fashion-MNIST, the drop-in replacement of MNIST, and not MNIST" in result.stderr


def test_a_damaged_package_is_refused(tmp_path):
    checkout = FakeApt(tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / FILES[0]).write_bytes(b"damaged")
    place_package(checkout, tmp_path / "package")
    result, _ = checkout.install(user=0, status=0)
    assert (result.returncode, result.stdout) == (69, "")
    assert "does not hold the published Fashion-MNIST" in result.stderr


def test_root_installs_the_package(tmp_path):
    checkout = FakeApt(tmp_path)
    place_package(checkout, tmp_path / "nowhere")
    result, calls = checkout.install(user=0)
    assert calls[0] == "install -y --no-install-recommends dataset-fashion-mnist"
    assert result.returncode == 69
    assert "dataset-fashion-mnist cannot be installed" in result.stderr


def test_neither_root_nor_sudo(tmp_path):
    checkout = FakeApt(tmp_path)
    place_package(checkout, tmp_path / "nowhere")
    result, calls = checkout.install(user=1000)
    assert (result.returncode, calls) == (69, [])
    assert "Without root or sudo nothing can be installed" in result.stderr
