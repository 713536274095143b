"""The image and the Kubernetes job that are shipped: what can be said of them without a container engine.

The MPIJob's own fields are compared with a list written by hand from the API's reference; the API's
schema is not part of this repository.
"""

import json
import re
import shlex
import signal
import subprocess

import pytest

from support.machine import ROOT, Machine

# kubeflow.org/v2beta1: field, its type, and the values that it takes if they are few.
SPEC = {"slotsPerWorker": int, "sshAuthMountPath": str, "runPolicy": dict, "mpiReplicaSpecs": dict,
        "mpiImplementation": ("OpenMPI", "Intel")}
RUN_POLICY = {"cleanPodPolicy": ("All", "Running", "None"), "ttlSecondsAfterFinished": int,
              "activeDeadlineSeconds": int, "backoffLimit": int, "schedulingPolicy": dict,
              "suspend": bool}
REPLICA = {"replicas": int, "template": dict,
           "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode")}


def instructions():
    """The Dockerfile as [(instruction, text)], continued lines joined."""
    text = (ROOT / "launch/Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_the_images_packages_are_those_of_setup(tmp_path):
    """Its first step, run here with an apt-get that only writes down what it is asked for."""
    machine = Machine(tmp_path)
    machine.has("id", "echo 0")
    machine.has("dpkg-query", "exit 1")
    machine.has("apt-get", f'echo "$@" >>{tmp_path}/apt')
    (step,) = [text for kind, text in instructions() if kind == "RUN" and "install_packages" in text]
    words = shlex.split(step.split("&& rm -rf")[0])
    assert words[:4] == ["bash", "-euo", "pipefail", "-c"] and words[-1].endswith("; make_venv")
    machine.has("launch/step.sh", words[-1].removesuffix("; make_venv"))
    assert machine.run("launch/step.sh").returncode == 0
    installed = (tmp_path / "apt").read_text().splitlines()[-1].split("--no-install-recommends ")[1]
    listed = subprocess.check_output(
        ["bash", "-c", 'source launch/setup.sh; echo "${packages[@]}"'], cwd=ROOT, text=True)
    assert installed.split() == [*listed.split(), "openssh-server", "openssh-client"]


def test_the_images_steps_are_scripts_that_exist():
    kinds = [kind for kind, _ in instructions()]
    assert kinds[0] == "FROM" and set(kinds) == {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "CMD"}
    assert instructions()[0][1] == "debian:12", "the system that setup.sh is for"
    for kind, text in instructions():
        for script in re.findall(r"launch/\w+\.sh", text):
            assert (ROOT / script).is_file()
        if kind == "COPY":
            assert (ROOT / text.split()[0]).exists()
        if kind == "RUN":
            subprocess.run(["bash", "-n", "-c", text], check=True)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", "build", "data", "runs"} <= set(ignored) and ".git" not in ignored


@pytest.fixture(scope="module")
def job():
    """launch/mpijob.yaml, read by Debian's python3-yaml, which launch/test.sh installs."""
    read = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    result = subprocess.run(["/usr/bin/python3", "-c", read], capture_output=True, text=True,
                            stdin=(ROOT / "launch/mpijob.yaml").open(), check=False)
    assert result.returncode == 0, "apt-get install python3-yaml\n" + result.stderr
    return json.loads(result.stdout)


def assert_fields(found, allowed):
    for name, value in found.items():
        kind = allowed[name]
        assert value in kind if isinstance(kind, tuple) else type(value) is kind, f"{name}: {value}"


def test_the_job_has_the_fields_of_the_api(job):
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    spec = job["spec"]
    assert_fields(spec, SPEC)
    assert_fields(spec["runPolicy"], RUN_POLICY)
    assert set(spec["mpiReplicaSpecs"]) == {"Launcher", "Worker"}
    for replica in spec["mpiReplicaSpecs"].values():
        assert_fields(replica, REPLICA)


def test_the_jobs_parts_fit_each_other(job):
    launcher, worker = (job["spec"]["mpiReplicaSpecs"][kind] for kind in ("Launcher", "Worker"))
    pods = [replica["template"]["spec"] for replica in (launcher, worker)]
    for pod in pods:
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert pod["terminationGracePeriodSeconds"] >= 60
        assert container["image"] == "syncbn:latest"
    (worker_container,) = pods[1]["containers"]
    slots = job["spec"]["slotsPerWorker"]
    assert worker_container["resources"]["limits"]["nvidia.com/gpu"] == str(slots)
    assert {"name": "memory", "mountPath": "/dev/shm"} in worker_container["volumeMounts"]
    assert {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}} in pods[1]["volumes"]
    (launcher_container,) = pods[0]["containers"]
    arguments = launcher_container["args"]
    assert arguments[:2] == ["-n", str(slots * worker["replicas"])]
    assert launcher_container["command"][-2:] == ['sleep 10; exec mpirun "$@"', "mpirun"]
    assert arguments[-1] == "--resume" and (ROOT / "configs/main.ini").is_file()
    assert job["spec"]["sshAuthMountPath"] == "/root/.ssh", "the image's user is root"


def test_a_launcher_that_is_deleted_asks_mpirun_for_a_stop(job):
    (container,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == ["bash", "-c", "kill -USR1 1; sleep 100"], "mpirun is process 1"


def test_a_worker_that_is_deleted_asks_its_ranks_for_a_stop_and_waits(job, tmp_path):
    """The command with a /proc that holds a rank and the ssh server."""
    (container,) = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    bash, option, script = container["lifecycle"]["preStop"]["exec"]["command"]
    assert "$(" not in script, "which Kubernetes expands"
    rank, server = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    for process, name in [(rank, "syncbn-train"), (server, "sshd")]:
        (tmp_path / "its/proc" / str(process.pid)).mkdir(parents=True)
        (tmp_path / "its/proc" / str(process.pid) / "comm").write_text(name + "\n")
    hook = subprocess.Popen([bash, option, script.replace("/proc", "its/proc")], cwd=tmp_path)
    try:
        assert rank.wait(timeout=10) == -signal.SIGUSR1
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(timeout=1.5)
        (tmp_path / "its/proc" / str(rank.pid) / "comm").unlink()
        assert hook.wait(timeout=10) == 0 and server.poll() is None
    finally:
        for process in (hook, rank, server):
            process.kill()
            process.wait()
