"""A node of Kubernetes, where podman runs containers in place of the kubelet.

Does with a manifest what the kubelet and a container runtime would do: users, groups, capabilities,
the default seccomp filter of engines, a read-only root, and volumes. Containers have no image:
their root is empty, and the interpreter, its environment and this repository are mounted into it.
No control groups are made, so limits of memory and processors are not tried.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.manifests import DEPLOY, Manifest
from tests.support.visitor import REPOSITORY, Visitor

MEMORY_VOLUME: Final = "64m"
PROGRAMS: Final = {
    "streamerd": (sys.executable, "-m", "streamerd"),
    "streamerctl": (sys.executable, "-m", "streamerd.cli.main"),
}
"""The commands that stand for the programs of the image."""
DAEMON_IMAGE: Final = "streamerd"
"""The image's name in the manifests, before kustomize adds its registry."""
_ENVIRONMENT: Final = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "PYTHONDONTWRITEBYTECODE": "1"}
"""The first variable is set by Kubernetes in every container; RFC 5737 reserves the address."""
_SMALL_LIMITS: Final = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
"""Lower limits than podman's defaults, which root may not grant without CAP_SYS_RESOURCE."""
_STORAGE: Final = '[storage]\ndriver = "vfs"\nrunroot = "{0}/run"\ngraphroot = "{0}/graph"\n'
_HOLD: Final = """
set -e
mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
echo ready
exec sleep infinity
"""
"""Keeps the node's mount namespace, without a hybrid of control groups, which crun refuses here: it
says "cgroups in hybrid mode not supported". Podman leaves its locks on the node's own mounts."""


class Node:
    """A folder that is the node's file system, and the containers on it. A context manager."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / "root"
        self._storage = directory / "storage.conf"
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._root.mkdir()
        self._storage.write_text(_STORAGE.format(self.directory / "engine"))
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "sh", "-c", _HOLD],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._podman("rm", "--all", "--force", "--time=0")
        assert self._holder is not None
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    # --- what is on it --------------------------------------------------------------------------

    def path(self, host_path: str) -> Path:
        """The test's path of a folder of the node; the folder is made as the kubelet makes one."""
        found = self.directory / "node" / host_path.lstrip("/")
        found.mkdir(parents=True, exist_ok=True)
        return found

    def memory(self, name: str) -> Path:
        """An `emptyDir` in memory, which a restarted pod finds as it left it."""
        place = self.directory / "volumes" / name
        if not place.exists():
            place.mkdir(parents=True)
            self._inside(
                "mount", "-t", "tmpfs", "-o", f"mode=777,size={MEMORY_VOLUME}", name, place
            )
        return place

    def _volume(self, pod: str, volume: Manifest, given: Mapping[str, Path]) -> Path:
        match volume:
            case {"hostPath": {"path": path}}:
                return self.path(path)
            case {"emptyDir": {"medium": "Memory"}}:
                return self.memory(f"{pod}-{volume['name']}")
            case {"emptyDir": _}:
                place = self.directory / "volumes" / f"{pod}-{volume['name']}"
                place.mkdir(parents=True, exist_ok=True)
                place.chmod(0o777)
                return place
            case _:
                return given[volume["name"]]

    # --- containers -----------------------------------------------------------------------------

    def command(
        self, pod: Manifest, container: Manifest, name: str, given: Mapping[str, Path]
    ) -> list[str]:
        """The words that start a container of a pod; those of the program follow.

        Args:
            given: for each volume that the manifest leaves to the cluster, its content.
        """
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = [
            _mount(self._volume(name, volumes[mount["name"]], given), mount)
            for mount in container["volumeMounts"]
        ]
        words = [
            *self._prefix(),
            "run",
            "--rm",
            "--interactive",
            f"--name={name}",
            "--cgroups=disabled",
        ]
        words += ["--network=none", *_SMALL_LIMITS, *_rights(pod, container), *mounts]
        words += [f"--volume={path}:{path}:ro" for path in _interpreter()]
        words += [f"--env={name}={value}" for name, value in _environment(container).items()]
        return [*words, f"--workdir={REPOSITORY}", "--rootfs", str(self._root)]

    def execute(self, name: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program of the image in a running container, as a probe does."""
        return self._podman("exec", name, *program(words))

    def pid_of(self, name: str) -> int:
        """The pid of a container's first process on the node; 0 while there is none."""
        told = self._podman("inspect", "--format={{.State.Pid}}", name).stdout
        return int(told) if told.strip().isdigit() else 0

    def signal(self, name: str, number: signal.Signals) -> None:
        """Signal a container's first process; when that ends, all others end too."""
        pid = self.pid_of(name)
        assert pid, name
        os.kill(pid, number)

    def _podman(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._prefix(), *words],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def _prefix(self) -> list[str]:
        assert self._holder is not None
        variable = f"CONTAINERS_STORAGE_CONF={self._storage}"
        return [*self._enter(), "env", variable, "podman", "--cgroup-manager=cgroupfs"]

    def _inside(self, *words: str | Path) -> None:
        subprocess.run([*self._enter(), *words], check=True)

    def _enter(self) -> list[str]:
        assert self._holder is not None
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]


class PodVisitor(Visitor):
    """A client in a container, whose process is no child of the command that starts it."""

    def __init__(self, node: Node, name: str, before: Sequence[str]) -> None:
        super().__init__(before)
        self._node, self._name = node, name

    @property
    def pid(self) -> int:
        return self._node.pid_of(self._name)


def program(words: Sequence[str]) -> list[str]:
    """A manifest's command, with the stand-ins for the image's programs."""
    first, *others = words
    return [*PROGRAMS.get(first, (first,)), *others]


def _environment(container: Manifest) -> dict[str, str]:
    """The variables that Kubernetes, this repository's image and the manifest set."""
    variables = {**_ENVIRONMENT, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    if container.get("image") == DAEMON_IMAGE:
        text = (DEPLOY / "Containerfile").read_text()
        variables |= dict(re.findall(r"^ENV (\w+)=(\S+)$", text, re.MULTILINE))
    return variables | {one["name"]: one["value"] for one in container.get("env", ())}


def _rights(pod: Manifest, container: Manifest) -> list[str]:
    """A pod's security context, overridden by its container's, in podman's words."""
    context: dict[str, Any] = {**pod["securityContext"], **container["securityContext"]}
    words = [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
    words += [f"--group-add={group}" for group in context.get("supplementalGroups", ())]
    if context.get("readOnlyRootFilesystem"):
        words += ["--read-only", "--read-only-tmpfs=false"]
    if not context.get("allowPrivilegeEscalation", True):
        words.append("--security-opt=no-new-privileges")
    capabilities = context.get("capabilities", {})
    words += [f"--cap-drop={name}" for name in capabilities.get("drop", ())]
    words += [f"--cap-add={name}" for name in capabilities.get("add", ())]
    return words


def _mount(place: Path, mount: Manifest) -> str:
    return f"--volume={place}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"


@functools.cache
def _interpreter() -> tuple[Path, ...]:
    """The paths of this machine that Python programs of this repository need in a container."""
    system = (path for name in ("usr", "lib", "lib64", "bin") if (path := Path("/", name)).exists())
    ours = {Path(sys.prefix), Path(sys.base_prefix), REPOSITORY}
    within = {path for path in ours if any(above in ours for above in path.parents)}
    return (*system, *sorted(ours - within))


@contextlib.contextmanager
def node() -> Iterator[Node]:
    """A node in its own folder, with a path short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="strd-"))
    directory.chmod(0o755)
    try:
        with Node(directory) as made:
            yield made
    finally:
        shutil.rmtree(directory)


def needs_podman() -> pytest.MarkDecorator:
    """A mark for tests that start containers."""
    return pytest.mark.skipif(bool(why := _why_not()), reason=why or "can start containers")


@functools.cache
def _why_not() -> str:
    if os.getuid() != 0:
        return "needs root: it starts containers of several users"
    if shutil.which("podman") is None:
        return "needs podman (Debian: apt install podman)"
    pod: Manifest = {"volumes": [], "securityContext": {"runAsUser": 1, "runAsGroup": 1}}
    container: Manifest = {"securityContext": {}, "volumeMounts": []}
    with node() as made:
        words = [*made.command(pod, container, "tried", {}), "true"]
        tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"podman starts no container here: {tried.stderr.strip()}" if tried.returncode else ""
