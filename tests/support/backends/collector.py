"""The real Collector, on any configuration of ours, its addresses moved to free ports.

The file is run as it is shipped. A second one beside it moves what listens (OTLP receivers, health check, its own
metrics) to ports of 127.0.0.1 and its file storage into the test's folder, and changes nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.backends import http
from tests.support.backends.programs import find_programs
from tests.support.backends.server import Server, loopback

_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_AS_BY_DEFAULT = {"without_type_suffix": True, "without_units": True, "without_scope_info": True}
"""How the Collector names its metrics where a configuration says nothing of readers."""


class Collector(Server):
    """One Collector.

    Args:
        config: The file, as it is shipped.
        folder: Its log, and under ``data`` a folder for each ``file_storage`` of the configuration.
        env: What the configuration takes from ``${env:...}``.
        overrides: Merged over the configuration: for a test that needs a shorter time or a smaller queue.
        program: Else the one of ``scripts/backends``.

    Attributes:
        receivers: Address (``127.0.0.1:port``) of each OTLP receiver by its id and protocol: ``("otlp", "grpc")``.
        telemetry: Where its own metrics are, for Prometheus to scrape.
    """

    name = "collector"

    def __init__(
        self, config: Path, folder: Path, *, env: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None, program: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(program or find_programs().collector, folder, env)
        self.config = config
        self.overrides = dict(overrides or {})
        self.telemetry = loopback()
        self.receivers: dict[tuple[str, str], str] = {}
        self._health: list[str] = []
        self._moved = self._move(yaml.safe_load(config.read_text()))

    @property
    def otlp_grpc(self) -> str:
        """The endpoint of the first OTLP receiver, for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return self._endpoint("grpc")

    @property
    def otlp_http(self) -> str:
        """The same by HTTP."""
        return self._endpoint("http")

    def command(self) -> list[str]:
        """The Collector and its configurations, the later ones merged over the earlier ones."""
        return [str(self.program), *self._configs()]

    def validate_command(self) -> list[str]:
        """Checks the configuration and ends."""
        return [str(self.program), "validate", *self._configs()]

    def is_ready(self) -> bool:
        """Whether it takes telemetry: by its health check, else when its own metrics are there."""
        return all(http.answers(f"http://{at}/") for at in self._health) and http.answers(
            f"http://{self.telemetry}/metrics"
        )

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        """Its own metrics: name without ``_total``, labels, number."""
        found = (_SAMPLE.match(line) for line in http.get(f"http://{self.telemetry}/metrics").splitlines())
        return [
            (one["name"].removesuffix("_total"), dict(_LABEL.findall(one["labels"] or "")), float(one["value"]))
            for one in found
            if one
        ]

    def metrics(self, **labels: str) -> dict[str, float]:
        """The same, summed over what the labels leave open: ``metrics(exporter="otlp_http/logs")``."""
        sums: dict[str, float] = {}
        for name, has, value in self.samples():
            if all(has.get(key) == wanted for key, wanted in labels.items()):
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def _endpoint(self, protocol: str) -> str:
        at = next((at for (_, spoken), at in self.receivers.items() if spoken == protocol), None)
        assert at is not None, f"{self.config} has no OTLP receiver that speaks {protocol}"
        return f"http://{at}"

    def _configs(self) -> list[str]:
        texts = [self._moved, *([self.overrides] if self.overrides else [])]
        return [f"--config={self.config}", *(f"--config=yaml:{json.dumps(text)}" for text in texts)]

    def _move(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What is merged over the configuration so that nothing of it meets anything else on this machine."""
        host, _, port = self.telemetry.partition(":")
        metrics = ((config["service"].get("telemetry") or {}).get("metrics") or {}).get("readers") or []
        pulled = [reader["pull"]["exporter"] for reader in metrics if "pull" in reader]
        told = [exporter["prometheus"] for exporter in pulled if "prometheus" in exporter]
        reader = {**(told[0] if told else _AS_BY_DEFAULT), "host": host, "port": int(port)}
        readers = [{"pull": {"exporter": {"prometheus": reader}}}]
        moved: dict[str, Any] = {"service": {"telemetry": {"metrics": {"readers": readers}}}}
        used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline["receivers"]}
        for name, receiver in (config.get("receivers") or {}).items():
            if name.split("/")[0] == "otlp" and name in used:
                for protocol in receiver["protocols"]:
                    at = self.receivers[name, protocol] = loopback()
                    there = moved.setdefault("receivers", {}).setdefault(name, {"protocols": {}})
                    there["protocols"][protocol] = {"endpoint": at}
        for name in config["service"].get("extensions") or []:
            kind = name.split("/")[0]
            if kind == "health_check":
                self._health.append(loopback())
                moved.setdefault("extensions", {})[name] = {"endpoint": self._health[-1]}
            if kind == "file_storage":
                folder = self.data / name.replace("/", "-")
                folder.mkdir(exist_ok=True)
                moved.setdefault("extensions", {})[name] = {"directory": str(folder)}
        return moved
