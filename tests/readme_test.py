"""README.md shows tests/readme_example.cpp word for word, and the example learns."""

import os
import re
import subprocess
from pathlib import Path

TESTS = Path(__file__).resolve().parent
EXAMPLE = (TESTS / "readme_example.cpp").read_text()


def code_blocks(text):
    return re.findall(r"^```cpp\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_readme_shows_the_example():
    readme = (TESTS.parent / "README.md").read_text()
    assert EXAMPLE in code_blocks(readme), (
        "README.md has no ```cpp block with the very text of tests/readme_example.cpp"
    )


def test_a_changed_block_is_noticed():
    changed = EXAMPLE.replace("0.01", "0.02")
    assert EXAMPLE not in code_blocks(f"# Title\n\n```cpp\n{changed}```\n")
    assert EXAMPLE in code_blocks(f"# Title\n\n```cpp\n{EXAMPLE}```\n")


def test_the_example_learns():
    command = [os.environ["SYNCBN_MPIEXEC"], "--timeout", "50", "-n", "2",
               os.environ["SYNCBN_BUILD_DIR"] + "/tests/readme_example"]
    output = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                            timeout=60, check=True).stdout
    losses = [float(value) for value in re.findall(r"^loss (\S+)$", output, flags=re.MULTILINE)]
    assert len(losses) == 4, output
    assert losses[-1] < losses[0] / 2, output
