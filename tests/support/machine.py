"""A machine to try the launch scripts on."""

import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """A checkout of its own, and a PATH that lacks or has what a test says."""

    def __init__(self, folder):
        self.checkout = folder / "checkout"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        shutil.copy(ROOT / "CMakePresets.json", self.checkout)
        (self.checkout / "configs").mkdir()
        (self.checkout / "configs" / "main.ini").write_text("[train]\nepochs = 1\n")
        self.bin.mkdir()
        for directory in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
            for tool in Path(directory).iterdir():
                if not (self.bin / tool.name).is_symlink():
                    (self.bin / tool.name).symlink_to(tool)

    def lacks(self, *tools):
        for tool in tools:
            (self.bin / tool).unlink(missing_ok=True)

    def has(self, tool, script):
        """Replaces a command (a bare name) or adds a program of the checkout (a path)."""
        path = self.bin / tool if "/" not in tool else self.checkout / tool
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script if script.startswith("#!") else f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def has_no_packages_missing(self):
        self.has("dpkg-query", 'shift 3; printf "installed %s\\n" "$@"')

    def start(self, script, *arguments, **environment):
        """The running script; its stdout and stderr are pipes of text."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SYNCBN_", "OMP_", "OMPI_", "PIP_", "SLURM_"))
        }
        return subprocess.Popen(
            [self.checkout / script, *map(str, arguments)],
            env={**kept, "PATH": str(self.bin), **environment},
            cwd=self.checkout,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell cannot trap what it was told to ignore, as what runs in the background is.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, script, *arguments, **environment):
        return ended(self.start(script, *arguments, **environment))


def ended(process, timeout=60):
    stdout, stderr = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_refused(result, code, *parts):
    """The script ended with this code; its last line is a sentence that says all the parts."""
    assert result.returncode == code, result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in sentence
    assert "unbound variable" not in result.stderr
