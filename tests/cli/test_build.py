"""What a build knows of itself, and which LibTorch its programs load."""

import os
import pathlib
import subprocess

import pytest

from support import trainer

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Tree:
    """A source tree of its own, and what cmake/BuildIdentity.cmake writes about it."""

    def __init__(self, folder):
        self.folder, self.output = folder / "tree", folder / "identity"
        self.folder.mkdir()
        self.template = folder / "template"
        self.template.write_text("@commit@ @changed@")

    def git(self, *words):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=self.folder,
            capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, content):
        (self.folder / "file").write_text(content)
        self.git("add", "file")
        self.git("commit", "-m", content)
        return self.git("rev-parse", "HEAD")

    def identity(self, source=None, **environment):
        subprocess.run(
            ["cmake", f"-DSOURCE_DIR={source or self.folder}", f"-DTEMPLATE={self.template}",
             f"-DOUTPUT={self.output}", "-P", ROOT / "cmake/BuildIdentity.cmake"],
            env={**os.environ, **environment}, capture_output=True, check=True)
        return self.output.read_text().strip()


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_the_commit_and_whether_files_differ(tree):
    tree.git("init")
    first = tree.commit("one")
    assert tree.identity() == f"{first} no"
    written = tree.output.stat().st_mtime_ns
    (tree.folder / "untracked").write_text("")
    assert tree.identity() == f"{first} no"
    assert tree.output.stat().st_mtime_ns == written, "nothing is compiled anew"
    (tree.folder / "file").write_text("two")
    assert tree.identity() == f"{first} yes"
    second = tree.commit("two")
    assert tree.identity() == f"{second} no" and second != first


def test_what_is_no_checkout_of_ours_is_unknown(tree):
    outside = {"GIT_CEILING_DIRECTORIES": str(tree.folder.parent)}
    assert tree.identity(**outside) == "unknown unknown"
    tree.git("init")
    assert tree.identity(**outside) == "unknown unknown", "no commit yet"
    tree.commit("one")
    (tree.folder / "vendored").mkdir()
    assert tree.identity(tree.folder / "vendored") == "unknown unknown"
    assert tree.identity(PATH=str(cmake_only(tree.folder.parent))) == "unknown unknown"


def cmake_only(folder):
    """A PATH without git."""
    programs = folder / "bin"
    programs.mkdir()
    cmake = subprocess.run(["which", "cmake"], capture_output=True, text=True, check=True).stdout
    (programs / "cmake").symlink_to(cmake.strip())
    return programs


def test_programs_say_it(tmp_path):
    said = dict(line.split(None, 1) for line in trainer.run("--version").stdout.splitlines())
    written = (trainer.PROGRAMS / "build_identity.cpp").read_text()
    assert f'"{said["commit"]}"' in written and f'"{said["dirty"]}"' in written
    options = {"data.name": "synthetic", "data.limit": 64, "train.batch": 64, "train.max_steps": 1}
    versions = trainer.train(tmp_path / "run", options).metadata["versions"]
    assert {key: versions[key] for key in ("commit", "dirty")} == {
        key: said[key] for key in ("commit", "dirty")}


@pytest.mark.parametrize("program", ["syncbn-train", "syncbn-study", "tests/readme_example"])
def test_another_libtorch_on_the_library_path_is_not_loaded(tmp_path, program):
    """An empty library stands in for it. The example is a user's program, which links the target syncbn."""
    (tmp_path / "empty.c").write_text("")
    for name in ("libc10.so", "libtorch_cpu.so"):
        subprocess.run(["cc", "-shared", "-o", tmp_path / name, tmp_path / "empty.c"], check=True)
    words = [] if program == "tests/readme_example" else ["--version"]
    result = subprocess.run([trainer.PROGRAMS / program, *words], capture_output=True, text=True,
                            timeout=60, env=trainer.environment(LD_LIBRARY_PATH=str(tmp_path)))
    assert result.returncode == 0, result.stderr
