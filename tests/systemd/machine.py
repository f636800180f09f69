"""A booted Debian that tests may break: this machine's root below a throw-away overlay, under a
real systemd.

Owns mounts, boot, commands inside, and the end. Everything that is written lies on a tmpfs in a
mount namespace of its own, so that nothing is left, whatever process is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.daemon import REPOSITORY
from tests.support.waiting import eventually

BOOT_S: Final = 60.0
COMMAND_S: Final = 120.0
ENVIRON: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}

# $0 and $1 are both the folder to work in. The other arguments are options of systemd-nspawn, which
# bind the folders that clients are run from.
_BOOT: Final = """
set -e
mount -t tmpfs -o size=2G,mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
rm -f "$1/root/etc/fstab" "$1"/root/etc/systemd/system/*.wants/*
# What images for containers have, and nodes do not: a policy that no service be started.
rm -rf "$1/root/usr/sbin/policy-rc.d" "$1/root/opt/streamerd" "$1/root/etc/streamerd"
shift
exec systemd-nspawn --quiet --boot --directory="$0/root" --register=no --keep-unit \
    --link-journal=no --private-network --console=pipe "$@" -- systemd.unit=basic.target
"""


def why_not() -> str:
    """The reason why no machine can be booted here; empty if one can."""
    if os.getuid() != 0:
        return "needs root, for mounts and namespaces"
    if shutil.which("systemd-nspawn") is None:
        return "needs systemd-nspawn (Debian: systemd-container)"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlayfs in the kernel"
    return ""


class Machine:
    """One boot. `close` ends it, and not a context manager, which would end it before
    the tests do.
    """

    def __init__(self, directory: Path) -> None:
        self.console = directory / "console.log"
        self._mounts = directory / "machine"
        self._mounts.mkdir()
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM"),
                    *("unshare", "--mount", "--propagation", "private"),
                    *("bash", "-c", _BOOT, str(self._mounts), str(self._mounts), *_binds()),
                ],
                env=ENVIRON,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
        try:
            self.init = eventually(self._find_init, BOOT_S, "an init process")
            eventually(self._booted, BOOT_S, "the end of the boot")
        except BaseException:
            self.close()
            raise
        for folder in (REPOSITORY, Path(sys.prefix)):
            for parent in map(self.path, folder.parents):
                mode = parent.stat().st_mode
                # Clients are run from these folders, which may lie where only root may go. A folder
                # that is bound read-only allows no chmod, not even one that changes nothing.
                if mode & 0o011 != 0o011:
                    parent.chmod(mode | 0o011)

    def _find_init(self) -> int:
        if self._process.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended:\n{self.console.read_text()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return int(pid)
        return 0

    def _booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")

    def path(self, inside: str | Path) -> Path:
        """The path by which this process reaches a file of the machine."""
        return Path(f"/proc/{self.init}/root", str(inside).lstrip("/"))

    def enter(self, *command: str, user: str = "root") -> list[str]:
        """The command that runs another one inside the machine."""
        switch = [] if user == "root" else ["runuser", "-u", user, "--"]
        namespaces = ["-m", "-u", "-i", "-n", "-p", "-C", "--wdns=/"]
        return ["nsenter", "-t", str(self.init), *namespaces, *switch, *command]

    def run(
        self,
        *command: str,
        user: str = "root",
        check: bool = True,
        timeout_s: float = COMMAND_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end.

        Raises:
            AssertionError: it failed and `check` is set; the text has what it printed.
        """
        done = subprocess.run(
            self.enter(*command, user=user),
            check=False,
            env=ENVIRON,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, inside: str, text: str) -> None:
        """Write a file that belongs to root, and its directory if that is missing."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def close(self) -> None:
        """Power the machine off, and kill it if that takes long."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init, signal.SIGKILL)
                self._process.kill()
                self._process.wait()


def _binds() -> Sequence[str]:
    """Folders that tests need inside and that do not lie on the root's own file system."""
    folders = (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
    return [f"--bind-ro={folder}" for folder in folders if _hidden(folder)]


def _hidden(folder: Path) -> bool:
    # systemd-nspawn mounts over both folders.
    covered = folder.is_relative_to("/tmp") or folder.is_relative_to("/run")
    return covered or folder.stat().st_dev != Path("/").stat().st_dev
