"""deploy/: Kubernetes accepts the manifests, and they keep the promises of docs/quickstart.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.support.manifests import (
    BASE,
    DEPLOY,
    SAMPLE,
    Manifest,
    containers,
    daemon_pod,
    kustomization,
    resources,
    vllm_pod,
)

from streamer_client.contract.sizes import parse_size
from streamer_client.contract.socket import SYSTEM_SOCKET
from streamerd.cli.arguments import control_parser
from streamerd.memory.check import contradiction, own_bytes
from streamerd.memory.room import SHM_MOUNT, MemoryRoom
from streamerd.settings.arguments import daemon_parser
from streamerd.settings.config import Settings, load_settings
from streamerd.shm.slabs import READONLY_MOUNT

FOLDER = SYSTEM_SOCKET.rpartition("/")[0]
MACHINE_BYTES = 1 << 40
FOLDERS = pytest.mark.parametrize("folder", [BASE, SAMPLE], ids=["base", "vllm"])
PODS = pytest.mark.parametrize("pod", [daemon_pod(), vllm_pod()], ids=["daemon", "vllm"])


# --- what Kubernetes takes ------------------------------------------------------------------------


@FOLDERS
@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
def test_each_resource_keeps_to_the_published_schema(folder: Path, version: str) -> None:
    """Validate strictly: a field that the schema does not know is an error, such as a
    mistyped one.
    """
    for resource in resources(folder):
        kubernetes_validate.validate(resource, version, strict=True)


@FOLDERS
def test_no_file_is_left_out(folder: Path) -> None:
    named = {"kustomization.yaml", *kustomization(folder)["resources"]}
    for generator in kustomization(folder).get("configMapGenerator", ()):
        named |= set(generator["files"])
    assert {path.name for path in folder.iterdir() if path.is_file()} == named


@FOLDERS
def test_kustomize_builds_it(folder: Path) -> None:
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("needs kubectl, which has kustomize in it")
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for resource in built:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    images = re.findall(r"image: (\S+)", done.stdout)
    assert images
    assert all(image.startswith("registry.example/") for image in images)
    maps = {one["metadata"]["name"] for one in built if one["kind"] == "ConfigMap"}
    assert set(re.findall(r"configMap:\n +name: (\S+)", done.stdout)) == maps


# --- what a pod may -------------------------------------------------------------------------------


@PODS
def test_a_pod_shares_one_folder_of_the_node_and_nothing_else(pod: Manifest) -> None:
    paths = [volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume]
    assert paths == [FOLDER]
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    for container in containers(pod):
        at = [mount for mount in container["volumeMounts"] if mount["mountPath"] == FOLDER]
        assert [mount["name"] for mount in at] == ["socket"]


@PODS
def test_no_container_has_a_right_that_it_does_not_need(pod: Manifest) -> None:
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    for container in containers(pod):
        allowed = container["securityContext"]
        assert allowed["allowPrivilegeEscalation"] is False
        assert allowed["readOnlyRootFilesystem"] is True
        assert allowed["capabilities"]["drop"] == ["ALL"]
    for container in pod["containers"]:
        assert "add" not in container["securityContext"]["capabilities"]
        assert "runAsUser" not in container["securityContext"]


def test_root_gives_the_folder_away_and_does_nothing_else() -> None:
    pod = daemon_pod()
    (first,) = pod["initContainers"]
    user, group = (pod["securityContext"][name] for name in ("runAsUser", "runAsGroup"))
    assert first["command"] == ["chown", f"{user}:{group}", FOLDER]
    assert first["securityContext"]["capabilities"]["add"] == ["CHOWN"]


def test_image_daemon_and_clients_name_one_group() -> None:
    (number,) = re.findall(r"^ARG ID=(\d+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    security = daemon_pod()["securityContext"]
    assert security["runAsUser"] == security["runAsGroup"] == int(number)
    assert vllm_pod()["securityContext"]["supplementalGroups"] == [int(number)]


# --- the daemon's container -----------------------------------------------------------------------


def daemon_container() -> Manifest:
    container: Manifest
    (container,) = daemon_pod()["containers"]
    return container


def mounted() -> dict[str, Any]:
    """For each mount path, the volume behind it and whether it is mounted read-only."""
    volumes = {volume["name"]: volume for volume in daemon_pod()["volumes"]}
    return {
        mount["mountPath"]: (volumes[mount["name"]], mount.get("readOnly", False))
        for mount in daemon_container()["volumeMounts"]
    }


def configured(room: MemoryRoom) -> Settings:
    settings, _ = load_settings({}, {}, str(BASE / "streamerd.toml"), room)
    return settings


def test_the_numbers_of_memory_belong_together() -> None:
    """Slabs fit into their volume, and together with the daemon's own processes into the
    container's limit.
    """
    shm_bytes = _bytes(mounted()[SHM_MOUNT][0]["emptyDir"]["sizeLimit"])
    limits = daemon_container()["resources"]
    limit_bytes = _bytes(limits["limits"]["memory"])
    room = MemoryRoom(MACHINE_BYTES, limit_bytes, shm_bytes)
    settings = configured(room)  # this raises if the daemon would not start
    own = own_bytes(settings.workers, settings.threads, settings.block_bytes)
    assert settings.memory_limit_bytes == shm_bytes
    assert contradiction(shm_bytes, own, room) is None
    assert limits["requests"]["memory"] == limits["limits"]["memory"]


def test_slabs_go_out_through_a_second_mount_that_nobody_may_write_to() -> None:
    (slabs, read_only), (again, again_read_only) = mounted()[SHM_MOUNT], mounted()[READONLY_MOUNT]
    assert slabs == again
    assert (slabs["emptyDir"]["medium"], read_only, again_read_only) == ("Memory", False, True)


def test_it_reads_the_configuration_that_the_kustomization_brings() -> None:
    arguments = daemon_parser(full=True).parse_args(daemon_container()["args"])
    (generator,) = kustomization(BASE)["configMapGenerator"]
    folder, _, name = arguments.config.rpartition("/")
    volume, _ = mounted()[folder]
    assert volume["configMap"]["name"] == generator["name"]
    assert name in generator["files"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_the_greeting_alone(probe: str) -> None:
    program, *words = daemon_container()[probe]["exec"]["command"]
    arguments = control_parser().parse_args(words)
    assert (program, arguments.quiet) == ("streamerctl", True)


def _bytes(quantity: str) -> int:
    """The bytes of a quantity such as 64Gi."""
    return parse_size(f"{quantity}B")
