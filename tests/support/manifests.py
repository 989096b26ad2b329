"""The files of ``collector-config`` as data: manifests, a Collector's configuration, and what is given to it.

Values come from the parsed document, not from its text, so that a comment is never mistaken for a setting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "collector-config"
KUBERNETES = CONFIG / "kubernetes"
SLURM = CONFIG / "slurm"
EXAMPLES = KUBERNETES / "examples"
KUSTOMIZATION = yaml.safe_load((CONFIG / "kustomization.yaml").read_text())

_VARIABLE = re.compile(r"\$\{env:([A-Z_]+)(?::-([^${}]*))?\}")
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> list[dict[str, Any]]:
    """What the kustomization puts together, without what it generates."""
    return [document for name in KUSTOMIZATION["resources"] for document in documents(CONFIG / name)]


def manifest(kind: str, name: str) -> dict[str, Any]:
    """The one manifest of this kind and name."""
    (found,) = (each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def literals(name: str) -> dict[str, str]:
    """A generated ConfigMap that is written as NAME=value."""
    (found,) = (each for each in KUSTOMIZATION["configMapGenerator"] if each["name"] == name)
    return dict(line.split("=", 1) for line in found["literals"])


def pod_templates(document: Any) -> Iterator[dict[str, Any]]:
    """The pod templates in a document, at any depth."""
    if isinstance(document, list):
        for each in document:
            yield from pod_templates(each)
    elif isinstance(document, dict):
        template = document.get("template")
        if isinstance(template, dict) and "containers" in template.get("spec", {}):
            yield template
        for each in document.values():
            yield from pod_templates(each)


def container_environment(container: Mapping[str, Any]) -> dict[str, str]:
    """A container's environment; what comes from a Secret or a field is ``<name>``."""
    given: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        given |= literals(source["configMapRef"]["name"])
    for each in container.get("env", ()):
        optional = any(source.get("optional") for source in each.get("valueFrom", {}).values())
        if not optional:
            given[each["name"]] = each.get("value", f"<{each['name']}>")
    return given


def environment_file(path: Path) -> dict[str, str]:
    """An EnvironmentFile of systemd: lines of NAME=value."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def to_fill_in(path: Path) -> set[str]:
    """The names that an EnvironmentFile leaves to whoever installs it: ``#NAME=``, a comment to systemd."""
    return set(re.findall(r"^#([A-Z_]+)=$", path.read_text(), re.MULTILINE))


def variables(config: Any) -> tuple[set[str], set[str]]:
    """The environment variables of a Collector's configuration: those without a default, and all."""
    text = json.dumps(config)
    every = set(re.findall(r"\$\{env:([A-Z_]+)", text))
    return set(re.findall(r"\$\{env:([A-Z_]+)\}", text)), every


def resolved(config: Any, environment: Mapping[str, str]) -> Any:
    """A Collector's configuration with its variables filled in, as its ``env`` provider does."""
    text = json.dumps(config)
    while True:
        after = _VARIABLE.sub(lambda found: environment.get(found[1]) or found[2] or "", text)
        if after == text:
            return json.loads(text)
        text = after


def size(text: str | int) -> int:
    """Bytes of ``512Mi``, ``400MiB``, ``512M`` (systemd's, base 1024) or a number."""
    found = re.fullmatch(r"(\d+)([KMGT]?)i?B?", str(text))
    assert found is not None, text
    return int(found[1]) * _UNITS[found[2]]


def queues(config: Mapping[str, Any]) -> list[int]:
    """The most bytes of each queue on disk: one for each exporter and signal."""
    found = []
    for pipeline in config["service"]["pipelines"].values():
        for name in pipeline["exporters"]:
            queue = config["exporters"][name].get("sending_queue", {})
            if queue.get("storage"):
                assert queue["sizer"] == "bytes"
                found.append(int(queue["queue_size"]))
    return found


def tries_s(config: Mapping[str, Any]) -> float:
    """Seconds that a stop takes where everything hangs: a try of each exporter for each signal, one after the other."""
    tries = [
        config["exporters"][name] for each in config["service"]["pipelines"].values() for name in each["exporters"]
    ]
    return sum(float(each["timeout"].removesuffix("s")) for each in tries)


def shell_blocks(path: Path) -> str:
    """All shell that a document shows, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)
    return re.sub(r"\\\n\s*", " ", "\n".join(blocks))


def yaml_blocks(path: Path) -> list[dict[str, Any]]:
    """All YAML that a document shows, one for each block."""
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL)]
