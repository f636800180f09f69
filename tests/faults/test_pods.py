"""Daemon and clients in pods, as deploy/kubernetes says, run by podman: one folder shared.

Real containers from the manifests themselves: each has its own pid, mount, ipc and network
namespaces, its own /dev/shm, a read-only root, no capability and the engine's seccomp filter. One
daemon serves all tests of this module.
"""

from __future__ import annotations

import copy
import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from streamer_client.contract.socket import SYSTEM_SOCKET
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK
from tests.support.manifests import Manifest, containers, daemon_pod, vllm_pod
from tests.support.pods import Node, PodVisitor, needs_podman, node, program
from tests.support.visitor import digests_of
from tests.support.waiting import eventually
from tests.support.worlds import give, leased_bytes, totals_of

pytestmark = needs_podman()

MODEL_BYTES = 4 * BLOCK
CONFIGURATION = f"""
memory_limit = "{16 * BLOCK >> 10}KiB"
block_size = "{BLOCK >> 10}KiB"
workers = 1
"""
"""A limit in place of the manifest's, for which this machine may lack the memory."""
FOLDER = SYSTEM_SOCKET.rpartition("/")[0]
STARTS_WITHIN_S = 30.0
ENDS_WITHIN_S = float(daemon_pod()["terminationGracePeriodSeconds"])


class Cluster:
    """A node with the daemon's pod on it, and a folder of models that vLLM's pods mount."""

    def __init__(self, on: Node) -> None:
        self.node = on
        self.models = on.path("/srv/models")
        self.settings = on.path("/etc/settings")
        (self.settings / "streamerd.toml").write_text(CONFIGURATION)
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The daemon's socket, at its path on this machine."""
        return self.node.path(FOLDER) / "control.sock"

    def start_daemon(self) -> None:
        """Do what a kubelet does for the DaemonSet: start one container after the other, then
        probe.
        """
        pod = daemon_pod()
        given = {"configuration": self.settings}
        first, last = containers(pod)
        words = self.node.command(pod, first, "daemon", given)
        subprocess.run([*words, *program(first["command"])], check=True)
        words = self.node.command(pod, last, "daemon", given)
        log = (self.node.directory / "daemon.log").open("ab")
        with log:
            self._daemon = subprocess.Popen(
                [*words, *program(["streamerd", *last["args"]])],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        probes = ("startupProbe", "readinessProbe", "livenessProbe")
        for asked in {tuple(last[probe]["exec"]["command"]) for probe in probes}:
            eventually(partial(self._probe, asked), STARTS_WITHIN_S, " ".join(asked))

    def _probe(self, words: Sequence[str]) -> bool:
        done = self.node.execute("daemon", words)
        log = (self.node.directory / "daemon.log").read_text()
        if self._daemon is None or self._daemon.poll() is not None:
            raise RuntimeError(f"the daemon has ended:\n{log}")
        assert done.returncode == 0, f"{done.stderr}{log}"
        return True

    def stop_daemon(self) -> None:
        """Do what a kubelet does to a container whose probe failed, or whose pod ends."""
        assert self._daemon is not None
        self.node.signal("daemon", signal.SIGTERM)
        assert self._daemon.wait(ENDS_WITHIN_S) == 0

    @contextmanager
    def client(self, name: str, pod: Manifest) -> Iterator[PodVisitor]:
        """A client in the container of a pod of vLLM."""
        (container,) = pod["containers"]
        words = self.node.command(pod, container, name, {"models": self.models})
        with PodVisitor(self.node, name, words) as visitor:
            yield visitor


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with node() as on:
        made = Cluster(on)
        made.start_daemon()
        yield made
        made.stop_daemon()


def _model(cluster: Cluster, name: str) -> list[Path]:
    """A model that the user of vLLM's pod may read, and the daemon's user may not."""
    files = write_model(cluster.models / name, shards=2, blocks=2, seed=len(name))
    user = vllm_pod()["securityContext"]["runAsUser"]
    give([cluster.models / name], user, 0o700)
    give(files, user, 0o600)
    return files


def _as_root(pod: Manifest) -> Manifest:
    """The same pod for an image that names no user: it runs as root, with an engine's
    capabilities.
    """
    changed = copy.deepcopy(pod)
    changed["securityContext"] = {"runAsUser": 0, "runAsGroup": 0}
    for container in changed["containers"]:
        container["securityContext"] = {}
    return changed


def test_a_pod_loads_from_memory_bit_for_bit(cluster: Cluster) -> None:
    files = _model(cluster, "llama")
    before = totals_of(cluster.socket)["source_read_bytes"]
    for resident_bytes in (0, MODEL_BYTES):
        with cluster.client("loads", vllm_pod()) as client:
            found = client.load(SYSTEM_SOCKET, "/models/llama")
        assert found["digests"] == digests_of(files)
        assert (found["mode"], found["resident_bytes"]) == ("daemon", resident_bytes)
    assert totals_of(cluster.socket)["source_read_bytes"] - before == MODEL_BYTES


@pytest.mark.parametrize("pod", [vllm_pod(), _as_root(vllm_pod())], ids=["user", "root"])
def test_what_a_pod_was_handed_it_can_read_and_nothing_else(
    cluster: Cluster, pod: Manifest
) -> None:
    """Root cannot do more either: slabs go out through the daemon's read-only mount."""
    files = _model(cluster, "pried")
    with cluster.client("pries", pod) as client:
        found = client.load(SYSTEM_SOCKET, "/models/pried")
        assert (found["mode"], found["digests"]) == ("daemon", digests_of(files))
        client.ask("open", source="/models/pried")
        pried = client.ask("pry")
    assert pried["descriptors"] > 0
    assert (pried["names"], pried["broken"]) == (0, [])


def test_a_pod_without_the_group_is_refused(cluster: Cluster) -> None:
    _model(cluster, "closed")
    pod = copy.deepcopy(vllm_pod())
    del pod["securityContext"]["supplementalGroups"]
    with cluster.client("stranger", pod) as client:
        refused = client.refused("connect", socket=SYSTEM_SOCKET)
    assert refused.kind == "RequestRefused"
    assert "group" in refused.text


def test_the_lease_of_a_pod_that_is_killed_is_gone(cluster: Cluster) -> None:
    _model(cluster, "leased")
    with cluster.client("killed", vllm_pod()) as client:
        client.ask("connect", socket=SYSTEM_SOCKET)
        client.ask("open", source="/models/leased")
        client.ask("read")
        assert leased_bytes(cluster.socket) == MODEL_BYTES
        client.kill()
        eventually(lambda: leased_bytes(cluster.socket) == 0)


def test_the_doctor_knows_where_it_is_and_what_it_cannot_see(cluster: Cluster) -> None:
    pod = vllm_pod()
    (container,) = pod["containers"]
    words = cluster.node.command(pod, container, "doctor", {"models": cluster.models})
    done = subprocess.run(
        [*words, *program(["streamerctl", "doctor", "--json"])], capture_output=True, check=False
    )
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert "this is a pod" in found["service"]["text"]
    assert found["socket"]["state"] == found["daemon"]["state"] == "ok"
    assert "another container" in found["room"]["text"]
    assert "another container" in found["cgroup"]["text"]


@pytest.fixture(scope="module")
def started_again(cluster: Cluster) -> list[Path]:
    """A model that the daemon's container loaded before it was stopped and started again.

    The fixture belongs to the module, since the daemon outlives the test that asks for it.
    """
    files = _model(cluster, "kept")
    with cluster.client("before", vllm_pod()) as client:
        assert client.load(SYSTEM_SOCKET, "/models/kept")["resident_bytes"] == 0
    cluster.stop_daemon()
    cluster.start_daemon()
    return files


def test_a_container_of_the_daemon_that_starts_again_finds_its_memory(
    cluster: Cluster, started_again: list[Path]
) -> None:
    """As after a failed probe, the pod's volumes stay with their content."""
    with cluster.client("after", vllm_pod()) as client:
        found = client.load(SYSTEM_SOCKET, "/models/kept")
    assert found["digests"] == digests_of(started_again)
    assert (found["mode"], found["resident_bytes"]) == ("daemon", MODEL_BYTES)
