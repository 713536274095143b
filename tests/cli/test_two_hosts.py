"""Two hosts on one machine: network namespaces with host names of their own, joined by one cable.

mpirun on the first starts its daemon on the second through tests/support/ns_agent.sh, and the ranks
have nothing but TCP between them. The training must end where two ranks on one host end: the bits of
a sum of two terms do not depend on the way they travel.
"""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNCBN_BUILD_DIR", ROOT / "build"))
SUBNET = "10.213.77"

MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMP_NUM_THREADS": "1",
}


def run(*command, timeout=90):
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **MPI_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


class TwoHosts:
    """Two network namespaces; a rank on each when launched with mpirun()."""

    def __init__(self, folder):
        self.names = [f"syncbn-{os.getpid()}-{side}" for side in "ab"]
        self.hostfile = folder / "hosts"
        self.hostfile.write_text("".join(f"{name} slots=1\n" for name in self.names))

    def __enter__(self):
        try:
            first, second = self.names
            for name in self.names:
                run("ip", "netns", "add", name)
            run("ip", "link", "add", "wire", "netns", first, "type", "veth",
                "peer", "name", "wire", "netns", second)  # fmt: skip
            for number, name in enumerate(self.names, start=1):
                run("ip", "-n", name, "addr", "add", f"{SUBNET}.{number}/24", "dev", "wire")
                run("ip", "-n", name, "link", "set", "lo", "up")
                run("ip", "-n", name, "link", "set", "wire", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Removes the namespaces, and with them the cable. Host names end with their processes."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def mpirun(self, *program):
        """Launches on the first host, which the agent enters as it does the second."""
        subnet = f"{SUBNET}.0/24"
        agent = ROOT / "tests/support/ns_agent.sh"
        return run(
            agent, self.names[0], "exec", "mpirun", "--timeout", 60, "-n", 2,
            "--hostfile", self.hostfile, "--mca", "plm_rsh_agent", agent,
            "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", subnet,
            "--mca", "oob_tcp_if_include", subnet, *program,
        )  # fmt: skip

    def bytes_sent(self):
        links = run("ip", "-n", self.names[0], "-json", "-stats", "link", "show", "wire")
        return json.loads(links)[0]["stats64"]["tx"]["bytes"]


@pytest.fixture
def two_hosts(tmp_path):
    assert os.geteuid() == 0, (
        "test_two_hosts.py makes network namespaces and must be run by root; "
        "leave it out with ctest -LE root"
    )
    with TwoHosts(tmp_path) as hosts:
        yield hosts


def trainer(out):
    return (BUILD / "syncbn-train", "--config", ROOT / "configs/smoke.ini",
            "--norm.kind", "batch", "--norm.batch", "global",
            "--run.device", "cpu", "--run.out", out)  # fmt: skip


def metrics(run_folder):
    with open(run_folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_ranks_sit_on_two_hosts(two_hosts):
    """The premise of the test below: two host names, neither of them this machine's own."""
    assert sorted(two_hosts.mpirun("hostname").split()) == two_hosts.names


def test_two_hosts_train_as_one(two_hosts, tmp_path):
    run("mpirun", "--timeout", 60, "-n", 2, "--mca", "btl", "self,vader", *trainer(tmp_path / "one"))
    before = two_hosts.bytes_sent()
    two_hosts.mpirun(*trainer(tmp_path / "two"))
    sent = two_hosts.bytes_sent() - before

    one = load_file(tmp_path / "one/model.safetensors")
    two = load_file(tmp_path / "two/model.safetensors")
    assert one.keys() == two.keys() != set()
    assert any(name.endswith("running_mean") for name in one)
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), f"{name} differs between the hosts"

    rows, expected = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert len(rows) == len(expected) > 0
    for row, reference in zip(rows, expected):
        for column in ("step", "samples", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert float(row[column]) == pytest.approx(float(reference[column]), abs=1e-6), column

    # Each step sends at least half a gradient over the cable; a job that never left one host, nothing.
    trained = sum(t.nbytes for name, t in one.items() if name.endswith(("weight", "bias")))
    assert sent > int(rows[-1]["step"]) * trained / 2
