"""docs/fleet.md and deploy/kubernetes-fleet agree with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import kubernetes_validate
import pytest
import yaml
from tests.support.manifests import BASE, DEPLOY, Manifest, kustomization

from streamerd.fleet.tls import client_context, server_context
from streamerd.memory.room import MemoryRoom
from streamerd.settings.config import load_settings
from streamerd.settings.fleet import Certificates, DnsMembers, parse_members, split_address
from streamerd.settings.table import KEYS

DOCS: Final = Path(__file__).parents[3] / "docs"
FLEET: Final = DEPLOY / "kubernetes-fleet"
ROOM: Final = MemoryRoom(1 << 40, 66 << 30, 64 << 30)


def built() -> list[Manifest]:
    """The documents that `kubectl apply --kustomize` would send."""
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("needs kubectl, which has kustomize in it")
    done = subprocess.run(
        [kubectl, "kustomize", str(FLEET)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(kind: str) -> Manifest:
    (found,) = (resource for resource in built() if resource["kind"] == kind)
    return found


@pytest.mark.parametrize("version", ["1.28", kubernetes_validate.latest_version()])
def test_each_resource_keeps_to_the_published_schema(version: str) -> None:
    for resource in built():
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_service_stands_for_the_daemons_of_the_port_that_they_listen_on() -> None:
    service, pod = of_kind("Service"), of_kind("DaemonSet")["spec"]["template"]
    settings, _ = load_settings({}, {}, str(FLEET / "streamerd.toml"), ROOM)
    members = parse_members(settings.fleet_members)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert isinstance(members, DnsMembers)
    _, port = split_address(settings.fleet_listen)
    assert (members.host, members.port) == (service["metadata"]["name"], port)
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [port]
    (container,) = pod["spec"]["containers"]
    assert [each["containerPort"] for each in container["ports"]] == [port]


def test_the_certificates_lie_where_the_configuration_looks() -> None:
    pod = of_kind("DaemonSet")["spec"]["template"]["spec"]
    settings, _ = load_settings({}, {}, str(FLEET / "streamerd.toml"), ROOM)
    (secret,) = (volume for volume in pod["volumes"] if "secret" in volume)
    (container,) = pod["containers"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == secret["name"])
    assert mount["readOnly"]
    for name, path in (
        ("tls.crt", settings.fleet_tls_cert),
        ("tls.key", settings.fleet_tls_key),
        ("ca.crt", settings.fleet_tls_ca),
    ):
        assert path == f"{mount['mountPath']}/{name}"
        assert f"--from-file={name}=" in (DOCS / "fleet.md").read_text(encoding="utf-8")


def test_the_configuration_is_that_of_daemons_that_are_alone_and_the_fleets_keys() -> None:
    (map_,) = kustomization(FLEET)["configMapGenerator"]
    assert map_["behavior"] == "merge"
    alone = (BASE / "streamerd.toml").read_text(encoding="utf-8")
    assert (FLEET / "streamerd.toml").read_text(encoding="utf-8").startswith(alone)


def test_the_commands_of_the_docs_make_certificates_that_nodes_take(tmp_path: Path) -> None:
    text = (DOCS / "fleet.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```sh\n(openssl .*?)```", text, re.DOTALL)
    subprocess.run(["sh", "-eu", "-c", commands], cwd=tmp_path, check=True, capture_output=True)
    for node in ("node-1", "node-2"):
        paths = (str(tmp_path / name) for name in (f"{node}.crt", f"{node}.key", "fleet-ca.crt"))
        files = Certificates(*paths)
        server_context(files)
        client_context(files)
        for purpose in ("sslserver", "sslclient"):
            subprocess.run(
                ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", files.ca,
                 files.cert],
                check=True, capture_output=True,
            )  # fmt: skip


@pytest.mark.parametrize("name", [key.name for key in KEYS if key.name.startswith("fleet")])
def test_each_key_is_documented_with_its_default(name: str) -> None:
    settings, _ = load_settings({}, {}, os.devnull, ROOM)
    (row,) = re.findall(rf"^\| [^|]*`{name}`[^|]*\|[^|]*\|", _operations(), re.MULTILINE)
    told = row.split("|")[2].strip()
    (key,) = (key for key in KEYS if key.name == name)
    default = getattr(settings, key.field)
    match default:
        case "":
            assert told == "none"
        case bool():
            assert told == str(default).lower()
        case _:
            assert float(told) == default


def _operations() -> str:
    return (DOCS / "operations.md").read_text(encoding="utf-8")
