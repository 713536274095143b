"""Too little shared memory for the data, as a small tmpfs in a mount namespace (needs root)."""

from support import idx, trainer

SCRIPT = 'mount -t tmpfs -o size=64m tmpfs /dev/shm || exit 99; exec "$@"'  # a container's default


def test_says_what_to_do(tmp_path):
    options = {"data.dir": idx.write_large(tmp_path), "run.out": tmp_path / "run"}
    result = trainer.run(*trainer.arguments(options), ranks=2,
                         prefix=["unshare", "--mount", "sh", "-c", SCRIPT, "sh"])
    assert result.code == 71, result.stderr
    sentences = [line for line in result.sentences() if line.startswith("[rank ")]
    assert sentences, result.stderr
    for sentence in sentences:
        assert "of 187 MiB" in sentence and "/dev/shm" in sentence and "--shm-size" in sentence
    assert not (tmp_path / "run").exists()
