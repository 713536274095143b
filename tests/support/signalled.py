"""A job that is still running, for tests that end it or its ranks."""

import contextlib
import os
import pathlib
import signal
import time

from support import trainer


def children(pid):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def catches(pid, number):
    """Whether the process has installed a handler of this signal."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def descendants(pid):
    return [found for child in children(pid) for found in (child, *descendants(child))]


def end_children():
    """Kills all that this process has started, and what that has started."""
    for pid in filter(alive, descendants(os.getpid())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Job:
    """A run under mpirun, once `look`(the pids of its ranks) has `found` something."""

    def __init__(self, ranks, look, options, *flags, **settings):
        self.process = trainer.start(*trainer.arguments(options), *flags, ranks=ranks, **settings)
        deadline = time.monotonic() + 60
        while not (found := look(children(self.process.pid))):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        self.found = found
        self.ranks = children(self.process.pid)
        assert len(self.ranks) == ranks

    def end(self):
        """Code, stderr and seconds till mpirun and all ranks are gone, a minute at most."""
        started = time.monotonic()
        try:
            stderr = self.process.communicate(timeout=60)[1]
            while any(map(alive, self.ranks)) and time.monotonic() < started + 60:
                time.sleep(0.02)
            return self.process.returncode, stderr, time.monotonic() - started
        finally:
            for pid in filter(alive, [*self.ranks, self.process.pid]):
                os.kill(pid, signal.SIGKILL)
