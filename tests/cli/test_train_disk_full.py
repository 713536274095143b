"""A full disk, as a small tmpfs in a mount namespace (needs root)."""

import pytest

from support import trainer

OPTIONS = {"data.name": "synthetic", "train.epochs": 1}
SCRIPT = """
mount -t tmpfs -o size=$1 tmpfs "$2" || exit 99
shift 2; out=$1; shift
"$@"; code=$?
ls -A "$out" >&2
cat "$out/metadata.json" >&2
exit $code
"""


@pytest.mark.parametrize("size, file", [("8k", "metadata.json"), ("256k", "model.safetensors")])
@pytest.mark.parametrize("ranks", [1, 2])
def test_says_so_and_leaves_no_half_file(tmp_path, size, file, ranks):
    out = tmp_path / "run"
    prefix = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", size, str(tmp_path), str(out)]
    result = trainer.run(*trainer.arguments({**OPTIONS, "run.out": out}), ranks=ranks,
                         prefix=prefix)
    assert result.code == 74, result.stderr
    [sentence] = [line for line in result.sentences() if "No space left on device" in line]
    assert f"{out}/{file}" in sentence and "free some space" in sentence
    assert "config.ini" in result.stderr.splitlines()
    assert file not in result.stderr.splitlines() and ".tmp" not in result.stderr.split(sentence)[1]
    assert '"COMPLETE"' not in result.stderr
