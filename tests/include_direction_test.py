"""Who may include whom (the folders of src/), who may see MPI, NCCL and Boost, and how long a file
may be. Each rule is also tried on a planted violation, so that a rule that finds nothing cannot
pass for a rule that is kept."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each folder of src/ and the folders right below it. A folder may include whatever is below it.
BELOW = {
    "apps": ["study"],
    "study": ["train"],
    "train": ["nn", "data"],
    "nn": ["comm"],
    "data": ["comm"],
    "comm": ["base"],
    "base": [],
}
LONGEST = 400  # lines
SOURCES = {".cpp", ".hpp", ".cu", ".py", ".sh", ".sbatch", ".cmake", ".txt"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
MESSAGE_PASSING = re.compile(r"(.*/)?(mpi(-ext)?|nccl[a-z_]*)\.h$")
BOOST = re.compile(r"boost/")


def allowed_folders():
    """Each folder with itself and all that is below it. Raises CycleError if BELOW has a cycle."""
    allowed = {}
    for folder in TopologicalSorter(BELOW).static_order():
        allowed[folder] = {folder}.union(*(allowed[below] for below in BELOW[folder]))
    return allowed


def read_includes(src):
    """{file: [(line, is_own, path)]}, files as paths relative to src; is_own: written in quotes."""
    includes = {}
    for path in sorted(src.rglob("*")):
        if path.suffix not in {".cpp", ".hpp", ".cu", ".h"}:
            continue
        found = []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := INCLUDE.match(line):
                found.append((number, match[1] == '"', match[2]))
        includes[path.relative_to(src).as_posix()] = found
    return includes


def direction_violations(includes):
    allowed = allowed_folders()
    for file, lines in includes.items():
        folder = file.split("/")[0]
        if folder not in allowed:
            yield f"src/{file}: the folder '{folder}' has no place in the order of folders"
            continue
        for number, is_own, target in lines:
            if not is_own and target not in includes:
                continue
            if target not in includes:
                yield f"src/{file}:{number}: '{target}' is no path below src/"
            elif target.split("/")[0] not in allowed[folder]:
                yield f"src/{file}:{number}: {folder} may not include '{target}'"


def library_violations(includes):
    """MPI and NCCL are for src/comm/*.cpp, and for headers that only these include."""
    seeing = set()  # headers that bring MPI or NCCL with them
    grown = True
    while grown:
        grown = False
        for file, lines in includes.items():
            if file in seeing or not file.endswith(".hpp"):
                continue
            if any(MESSAGE_PASSING.match(target) or target in seeing for _, _, target in lines):
                seeing.add(file)
                grown = True
    for file, lines in includes.items():
        in_comm = re.fullmatch(r"comm/[^/]+\.[ch]pp", file)
        in_options = re.fullmatch(r"base/options[^/]*\.cpp", file)
        for number, _, target in lines:
            if not in_comm and (MESSAGE_PASSING.match(target) or target in seeing):
                yield f"src/{file}:{number}: '{target}' (MPI, NCCL) is for src/comm/*.cpp only"
            if not in_options and BOOST.match(target):
                yield f"src/{file}:{number}: '{target}' is for src/base/options*.cpp only"


def length_violations(root):
    for folder in ("src", "tests", "launch"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCES and path.is_file():
                lines = len(path.read_text().splitlines())
                if lines > LONGEST:
                    yield f"{path.relative_to(root)}: {lines} lines, {LONGEST} at most"


def violations(root):
    includes = read_includes(root / "src")
    assert includes, f"no sources below {root / 'src'}"
    return [
        *direction_violations(includes),
        *library_violations(includes),
        *length_violations(root),
    ]


def test_this_tree_keeps_the_rules():
    assert violations(ROOT) == []


KEPT = {
    "src/base/error.hpp": "#include <string>\n",
    "src/base/options.hpp": '#include "base/error.hpp"\n',
    "src/base/options_file.cpp": "#include <boost/program_options.hpp>\n",
    "src/comm/runtime.hpp": '#include "base/error.hpp"\n',
    "src/comm/internal.hpp": "#include <mpi.h>\n",
    "src/comm/runtime.cpp": '#include "comm/internal.hpp"\n#include <nccl.h>\n',
    "src/data/idx.cpp": '#include "comm/runtime.hpp"\n#include "base/options.hpp"\n',
    "src/nn/layer.hpp": '#include "comm/runtime.hpp"\n',
    "src/train/run.cpp": '#include "nn/layer.hpp"\n#include "base/error.hpp"\n',
    "src/apps/train.cpp": '#include "base/options.hpp"\n#include "nn/layer.hpp"\n',
    "tests/run_test.cpp": "#include <mpi.h>\n" + "\n" * (LONGEST - 1),
}


def plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_tree_that_keeps_the_rules_has_no_violation(tmp_path):
    plant(tmp_path, KEPT)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("src/base/a.cpp", '\n#include "comm/runtime.hpp"\n', "src/base/a.cpp:2: base may not"),
        ("src/comm/a.cpp", '  #  include "nn/layer.hpp"\n', "src/comm/a.cpp:1: comm may not"),
        ("src/nn/a.cpp", '#include "data/a.hpp"\n', "src/nn/a.cpp:1: nn may not"),
        ("src/data/a.cpp", "#include <nn/layer.hpp>\n", "src/data/a.cpp:1: data may not"),
        ("src/train/a.hpp", '#include "apps/a.hpp"\n', "src/train/a.hpp:1: train may not"),
        ("src/nn/a.cpp", '#include "layer.hpp"\n', "'layer.hpp' is no path below src/"),
        ("src/nn/a.cpp", '#include "../comm/runtime.hpp"\n', "is no path below src/"),
        ("src/util/a.cpp", "", "the folder 'util' has no place"),
        ("src/nn/a.cpp", "#include <mpi.h>\n", "src/nn/a.cpp:1: 'mpi.h' (MPI, NCCL)"),
        ("src/train/a.hpp", "#include <nccl.h>\n", "src/train/a.hpp:1: 'nccl.h' (MPI, NCCL)"),
        ("src/apps/a.cpp", '#include "comm/internal.hpp"\n', "'comm/internal.hpp' (MPI, NCCL)"),
        ("src/comm/runtime.hpp", '#include "comm/internal.hpp"\n', "src/nn/layer.hpp:1: 'comm/run"),
        ("src/base/log.cpp", "#include <boost/any.hpp>\n", "src/base/log.cpp:1: 'boost/any.hpp'"),
        ("src/base/options.hpp", "#include <boost/any.hpp>\n", "is for src/base/options*.cpp only"),
        ("src/nn/a.cpp", "\n" * (LONGEST + 1), "src/nn/a.cpp: 401 lines, 400 at most"),
        ("tests/cli/a.py", "\n" * (LONGEST + 1), "tests/cli/a.py: 401 lines"),
        ("launch/a.sh", "\n" * (LONGEST + 1), "launch/a.sh: 401 lines"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, name, text, found):
    plant(tmp_path, KEPT)
    plant(tmp_path, {"src/data/a.hpp": "", "src/apps/a.hpp": "", name: text})
    assert any(found in violation for violation in violations(tmp_path)), violations(tmp_path)


def test_a_cycle_of_folders_is_found(monkeypatch):
    monkeypatch.setitem(BELOW, "base", ["study"])
    with pytest.raises(ValueError, match="cycle"):
        allowed_folders()
