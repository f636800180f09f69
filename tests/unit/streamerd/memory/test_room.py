"""The bounds of memory, read from trees that look like /proc and /sys."""

from pathlib import Path

import pytest

from streamerd.memory.room import MemoryRoom, cgroup_files, memory_room


def _tree(root: Path, files: dict[str, str]) -> str:
    (root / "dev/shm").mkdir(parents=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_every_group_on_the_way_up_may_limit() -> None:
    assert cgroup_files("0::/kubepods/pod1\n") == [
        "kubepods/pod1/memory.max",
        "kubepods/pod1/memory.high",
        "kubepods/memory.max",
        "kubepods/memory.high",
        "memory.max",
        "memory.high",
    ]


def test_version_1_names_the_memory_controller_only() -> None:
    membership = "5:cpu,cpuacct:/a\n4:memory:/docker/c1\n0::/\n"
    assert cgroup_files(membership) == [
        "memory/docker/c1/memory.limit_in_bytes",
        "memory/docker/memory.limit_in_bytes",
        "memory/memory.limit_in_bytes",
        "memory.max",
        "memory.high",
    ]


def test_a_path_outside_the_namespace_stays_below_the_mount() -> None:
    assert cgroup_files("0::/../../other\n") == [
        "other/memory.max",
        "other/memory.high",
        "memory.max",
        "memory.high",
    ]


def test_the_lowest_group_limit_counts(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/meminfo": "MemFree: 1 kB\nMemTotal:       1000 kB\n",
            "proc/self/cgroup": "0::/pod/c1\n",
            "sys/fs/cgroup/pod/c1/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": "4096\n",
            "sys/fs/cgroup/memory.max": "8192\n",
        },
    )
    room = memory_room(root)
    assert room.machine_bytes == 1000 * 1024
    assert room.cgroup_bytes == 4096
    assert room.cgroup_file == "/sys/fs/cgroup/pod/memory.max"


def test_the_threshold_above_which_a_group_is_slowed_counts_too(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": "8192\n",
            "sys/fs/cgroup/a/memory.high": "4096\n",
        },
    )
    assert memory_room(root).cgroup_bytes == 4096
    assert memory_room(root).cgroup_file == "/sys/fs/cgroup/a/memory.high"


def test_what_the_limiting_group_uses_already(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/c1\n",
            "sys/fs/cgroup/pod/memory.max": "8192\n",
            "sys/fs/cgroup/pod/memory.current": "5000\n",
            "sys/fs/cgroup/pod/memory.stat": "anon 1\nshmem 100\nactive_file 20\ninactive_file 3\n",
            "sys/fs/cgroup/pod/c1/memory.current": "7\n",
        },
    )
    assert memory_room(root).cgroup_used_bytes == 5000 - 123


def test_version_1_without_a_limit_is_no_ceiling(tmp_path: Path) -> None:
    root = _tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/c1\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert memory_room(root).cgroup_bytes is None


def test_what_cannot_be_told_is_no_ceiling(tmp_path: Path) -> None:
    assert memory_room(str(tmp_path / "nothing")) == MemoryRoom(None, None, None)
    assert MemoryRoom(None, None, None).lowest is None


def test_the_lowest_ceiling_is_named() -> None:
    assert MemoryRoom(30, None, 20).lowest == (20, "the size of /dev/shm")
    assert MemoryRoom(10, None, 20).lowest == (10, "the machine's memory")
    group = "the control group's limit in /x/memory.max"
    assert MemoryRoom(10, 5, 20, "/x/memory.max").lowest == (5, group)


def test_without_meminfo_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit hides all of /proc except its own entries."""
    told = memory_room().machine_bytes
    assert told is not None
    monkeypatch.setattr("streamerd.memory.room._read", lambda *_: "")
    asked = memory_room().machine_bytes
    assert asked is not None
    assert asked == pytest.approx(told, rel=0.01)
