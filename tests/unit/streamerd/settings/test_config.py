"""Settings: precedence, origins, and errors that name the key and the remedy."""

from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.memory.room import MemoryRoom
from streamerd.settings.arguments import daemon_parser, overrides_of
from streamerd.settings.config import Settings, check_user, config_body, load_settings
from streamerd.settings.table import KEYS, Context, Key
from streamerd.settings.values import Prefetched

GIB = 1 << 30
ROOM = MemoryRoom(machine_bytes=64 * GIB, cgroup_bytes=None, mount_bytes=32 * GIB)


def _load(
    overrides: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    toml: Path | None = None,
    room: MemoryRoom = ROOM,
) -> tuple[Settings, dict[str, str]]:
    base = {"XDG_RUNTIME_DIR": "/tmp/nobodys-7"}
    return load_settings(overrides or {}, base | (environ or {}), str(toml) if toml else None, room)


def _toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "streamerd.toml"
    path.write_text(text)
    return path


def test_the_default_limit_is_half_of_the_lowest_ceiling() -> None:
    assert _load()[0].memory_limit_bytes == 16 * GIB
    tight = ROOM._replace(cgroup_bytes=4 * GIB)
    assert _load(room=tight)[0].memory_limit_bytes == 2 * GIB


def test_the_origin_of_the_default_limit_tells_which_ceiling_decided() -> None:
    tight = ROOM._replace(cgroup_bytes=4 * GIB, cgroup_file="/sys/fs/cgroup/a/memory.high")
    assert _load(room=tight)[1]["memory_limit"] == (
        "default (half of the control group's limit in /sys/fs/cgroup/a/memory.high, 4.00 GiB)"
    )
    small = ROOM._replace(machine_bytes=2 * GIB)
    assert _load(room=small)[1]["memory_limit"] == (
        "default (half of the machine's memory, 2.00 GiB)"
    )
    assert _load({"memory_limit": "1GiB"}, room=small)[1]["memory_limit"] == "flag --memory-limit"


def test_a_configured_limit_must_fit_the_group_with_the_daemon_itself() -> None:
    tight = ROOM._replace(cgroup_bytes=4 * GIB, cgroup_file="/sys/fs/cgroup/a/memory.max")
    given: dict[str, object] = {"workers": "1", "threads": "4", "block_size": "8MiB"}
    # The daemon needs 64 MiB, and its worker needs 32 MiB and four blocks of 8 MiB.
    fits = 4 * GIB - (128 << 20)
    with pytest.raises(ConfigError, match=rf"Lower memory_limit to {fits} .*MemoryMax=") as error:
        _load({**given, "memory_limit": str(fits + 1)}, room=tight)
    assert "/sys/fs/cgroup/a/memory.max" in str(error.value)
    assert _load({**given, "memory_limit": str(fits)}, room=tight)[0].memory_limit_bytes == fits


def test_a_default_limit_is_never_refused() -> None:
    tiny = ROOM._replace(cgroup_bytes=64 << 20)
    assert _load(room=tiny)[0].memory_limit_bytes == 32 << 20


def test_a_configured_limit_must_fit_the_machine() -> None:
    small = ROOM._replace(machine_bytes=2 * GIB)
    with pytest.raises(ConfigError, match="more than the machine's 2147483648 bytes"):
        _load({"memory_limit": "3GiB"}, room=small)


def test_the_default_limit_is_whole_blocks() -> None:
    odd = ROOM._replace(cgroup_bytes=101 << 20)
    assert _load(room=odd)[0].memory_limit_bytes == 48 << 20


def test_without_any_ceiling_a_limit_must_be_given() -> None:
    nothing = MemoryRoom(None, None, None)
    with pytest.raises(ConfigError, match="set memory_limit"):
        _load(room=nothing)
    assert _load({"memory_limit": "1GiB"}, room=nothing)[0].memory_limit_bytes == GIB


def test_flag_wins_over_variable_over_file_over_default(tmp_path: Path) -> None:
    toml = _toml(tmp_path, "workers = 2\nthreads = 2\nlag_s = 2\n")
    environ = {"STREAMERD_WORKERS": "3", "STREAMERD_THREADS": "3"}
    settings, origins = _load({"workers": "5"}, environ, toml)
    assert (settings.workers, settings.threads, settings.lag_s) == (5, 3, 2.0)
    assert (settings.heartbeat_s, settings.idle_exit_s) == (2.0, 600.0)
    assert origins == dict.fromkeys((key.name for key in KEYS), "default") | {
        "memory_limit": "default (half of the size of /dev/shm, 32.0 GiB)",
        "workers": "flag --workers",
        "threads": "environment STREAMERD_THREADS",
        "lag_s": str(toml),
    }


FLAGS = {
    "--socket": "/s", "--memory-limit": "1GiB", "--workers": "2", "--threads": "3",
    "--block-size": "64KiB", "--idle-exit-s": "1", "--heartbeat-s": "2", "--lag-s": "3",
    "--space-wait-s": "4", "--source-wait-s": "4.5", "--credentials-wait-s": "5",
    "--log-level": "debug", "--log-format": "json", "--metrics-listen": "9464",
    "--prefetch": "/models/m",
    "--connections": "1000", "--bandwidth-limit": "1GB", "--socket-mode": "0660",
    "--readonly-shm": "/r", "--fleet": "gpus", "--fleet-members": "dns://nodes:7270",
    "--fleet-listen": "10.0.0.4:7270", "--fleet-tls-cert": "/c", "--fleet-tls-key": "/k",
    "--fleet-tls-ca": "/a", "--fleet-uploads": "5", "--fleet-bandwidth-limit": "1MB",
    "--fleet-wait-s": "6",
}  # fmt: skip


def test_every_key_has_its_flag() -> None:
    argv = [word for pair in FLAGS.items() for word in pair]
    arguments = daemon_parser().parse_args(
        [*argv, "--ephemeral", "--allow-root", "--fleet-insecure", "--ready-fd=7"]
    )
    settings, origins = _load(overrides_of(arguments))
    assert settings == Settings(
        "/s",
        GIB,
        2,
        3,
        1000,
        10**9,
        64 << 10,
        1.0,
        2.0,
        3.0,
        4.0,
        4.5,
        5.0,
        True,
        "debug",
        "json",
        "0660",
        True,
        "/r",
        "127.0.0.1:9464",
        (Prefetched("/models/m"),),
        *("gpus", "dns://nodes:7270", "10.0.0.4:7270", "/c", "/k", "/a", True, 5, 10**6, 6.0),
    )
    assert "default" not in origins.values()
    assert (arguments.ready_fd, arguments.config) == (7, None)


def test_flags_not_given_override_nothing() -> None:
    assert overrides_of(daemon_parser().parse_args([])) == {}


def test_help_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = daemon_parser().format_help().splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 80


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("STREAMERD_WORKRS", "STREAMERD_WORKERS"),
        ("STREAMERD_MEMORYLIMIT", "STREAMERD_MEMORY_LIMIT"),
        ("STREAMERD_PORT_NUMBER", "STREAMERD_"),
    ],
)
def test_an_unknown_variable_names_the_nearest(variable: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}; did you mean {nearest}"):
        _load(environ={variable: "1"})


def test_an_unknown_key_names_file_and_nearest(tmp_path: Path) -> None:
    toml = _toml(tmp_path, 'blocksize = "8MiB"\n')
    with pytest.raises(ConfigError, match=rf"{toml}: blocksize; did you mean block_size"):
        _load(toml=toml)


def test_variables_of_clients_and_of_kubernetes_are_no_settings() -> None:
    environ = {
        "STREAMERD_MODE": "required",
        "STREAMERD_SHARD_WRITER": "1",
        "STREAMERD_SERVICE_HOST": "10.0.0.1",
        "STREAMERD_SERVICE_PORT_HTTP": "80",
        "STREAMERD_PORT": "tcp://10.0.0.1:80",
        "STREAMERD_PORT_80_TCP_ADDR": "10.0.0.1",
        "STREAMERD_METRICS_SERVICE_HOST": "10.0.0.2",
        "STREAMERD_METRICS_SERVICE_PORT": "9090",
        "STREAMERD_METRICS_SERVICE_PORT_HTTP": "9090",
        "STREAMERD_METRICS_PORT": "tcp://10.0.0.2:9090",
        "STREAMERD_METRICS_PORT_9090_TCP": "tcp://10.0.0.2:9090",
        "STREAMERD_METRICS_PORT_9090_TCP_PROTO": "tcp",
        "STREAMERD_FLEET_V2_PORT_53_UDP_PORT": "53",
    }
    assert _load(environ=environ) == _load()


def test_an_empty_variable_is_not_set() -> None:
    assert _load(environ={"STREAMERD_WORKERS": ""}) == _load()


def test_the_socket_follows_the_order_that_clients_follow() -> None:
    assert _load()[0].socket == "/tmp/nobodys-7/streamerd/control.sock"
    settings, origins = _load(environ={"STREAMERD_SOCKET": "/x/y.sock"})
    assert (settings.socket, origins["socket"]) == ("/x/y.sock", "environment STREAMERD_SOCKET")


def test_the_system_daemon_makes_the_system_socket() -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/other:/run/streamerd"}
    assert _load(environ=environ)[0].socket == "/run/streamerd/control.sock"
    other = _load(environ={"RUNTIME_DIRECTORY": "/run/other"})[0].socket
    assert other == "/tmp/nobodys-7/streamerd/control.sock"


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("workers", "0", "whole number from 1 to 256"),
        ("workers", "many", "whole number from 1 to 256"),
        ("heartbeat_s", "-1", "seconds, more than 0"),
        ("heartbeat_s", "nan", "seconds, more than 0"),
        ("heartbeat_s", "inf", "3600 at most"),
        ("heartbeat_s", "3601", "3600 at most"),
        ("memory_limit", "6 apples", "'6 apples' is not a size"),
        ("block_size", "100000", "multiple of 4096"),
        ("block_size", "4096", "64KiB or more"),
        ("log_level", "loud", "debug, info, warning or error"),
        ("socket_mode", "rw", '"0660" its group too'),
        ("socket_mode", "0460", "a file mode"),
        ("socket_mode", "01660", "a file mode"),
        ("ephemeral", "perhaps", "true or false"),
    ],
)
def test_a_wrong_value_names_its_origin_and_what_is_right(name: str, raw: str, says: str) -> None:
    variable = f"STREAMERD_{name.upper()}"
    with pytest.raises(ConfigError) as error:
        _load(environ={variable: raw})
    assert str(error.value).startswith(f"{name} (environment {variable}): ")
    assert says in str(error.value)


def test_toml_types_are_strict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers"):
        _load(toml=_toml(tmp_path, 'workers = "2"\n'))
    settings, _ = _load(toml=_toml(tmp_path, "memory_limit = 1073741824\nephemeral = true\n"))
    assert (settings.memory_limit_bytes, settings.ephemeral) == (GIB, True)


def test_a_limit_below_the_smallest_window_is_refused_with_numbers() -> None:
    with pytest.raises(ConfigError, match=r"16777215 bytes .* 2 blocks of 8MiB = 16777216 bytes"):
        _load({"memory_limit": str((16 << 20) - 1)})
    assert _load({"memory_limit": "16MiB"})[0].memory_limit_bytes == 16 << 20


def test_a_limit_above_the_mount_is_refused_with_numbers() -> None:
    with pytest.raises(ConfigError, match=r"/dev/shm mount's 34359738368 bytes .*size=33GiB"):
        _load({"memory_limit": "33GiB"})


def test_a_socket_path_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"105 bytes and may have 104: .* holds 107"):
        _load({"socket": "/" + "s" * 104})


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"workers = ", "not valid TOML"), (b"\xff\xfe", "not valid TOML"), (None, "No such file")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as error:
        _load(toml=path)
    assert str(path) in str(error.value)


def test_the_config_body_has_value_and_origin_of_each_key() -> None:
    body = config_body(*_load({"block_size": "64KiB"}))
    assert body["block_size"] == {"value": 65536, "origin": "flag --block-size"}
    assert list(body) == [key.name for key in KEYS]


def test_the_config_body_tells_no_secret_of_a_prefetched_source() -> None:
    """Everyone who may use the daemon may ask for its configuration."""
    body = config_body(*_load({"prefetch": ["https://me:pass@host/m?sig=word", "/models/a"]}))
    told = str(body["prefetch"])
    assert "https://host/m" in told
    assert "/models/a" in told
    assert not any(secret in told for secret in ("pass", "word", "me:"))


@pytest.mark.parametrize("source", ["relative", "/a\0b"])
def test_a_prefetched_source_that_nobody_can_open(source: str) -> None:
    with pytest.raises(ConfigError, match="prefetch"):
        _load({"prefetch": [source]})


# --- who may use it -------------------------------------------------------------------------------


def _mode_for(socket: str, uid: int) -> object:
    (key,) = (key for key in KEYS if key.name == "socket_mode")
    assert isinstance(key, Key)
    return key.default(Context({}, ROOM, socket=socket, uid=uid))


def test_the_service_is_for_its_group_and_everything_else_for_its_user() -> None:
    assert _mode_for("/run/streamerd/control.sock", 7) == "0660"
    assert _mode_for("/run/streamerd/control.sock", 0) == "0600"
    assert _mode_for("/x/control.sock", 7) == "0600"
    assert _load({"socket_mode": "0660"})[0].socket_mode_bits == 0o660
    assert _load({"socket_mode": "600"})[0].socket_mode_bits == 0o600


def test_root_serves_others_only_when_told_to() -> None:
    for mode in ("0660", "0606"):
        settings, _ = _load({"socket_mode": mode})
        check_user(settings, 7)
        with pytest.raises(ConfigError, match=r"as root.*socket_mode to 0600.*allow_root to true"):
            check_user(settings, 0)
        check_user(_load({"socket_mode": mode, "allow_root": "true"})[0], 0)
    check_user(_load({"socket_mode": "0600"})[0], 0)
