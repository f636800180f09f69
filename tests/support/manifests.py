"""The manifests of deploy/kubernetes as values, as `kubectl apply --kustomize` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
BASE: Final = DEPLOY / "kubernetes"
SAMPLE: Final = BASE / "vllm"
"""The manifest of a vLLM server that uses the daemon."""

Manifest = dict[str, Any]


def kustomization(folder: Path) -> Manifest:
    found: Manifest = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return found


def resources(folder: Path) -> list[Manifest]:
    """The documents of all files that the folder's kustomization names."""
    names = kustomization(folder)["resources"]
    return [
        document
        for name in names
        for document in yaml.safe_load_all((folder / name).read_text())
        if document
    ]


def pod_of(folder: Path, kind: str) -> Manifest:
    """The specification of the pods of the folder's one resource of this kind."""
    (found,) = (resource for resource in resources(folder) if resource["kind"] == kind)
    spec: Manifest = found["spec"]["template"]["spec"]
    return spec


def daemon_pod() -> Manifest:
    return pod_of(BASE, "DaemonSet")


def vllm_pod() -> Manifest:
    return pod_of(SAMPLE, "Deployment")


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod, including those that run before the others."""
    return [*pod.get("initContainers", ()), *pod["containers"]]
