"""vmalert, which evaluates the alerts on log records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.backends import http
from tests.support.backends.programs import find_programs
from tests.support.backends.server import Server, loopback


class VmAlert(Server):
    """One vmalert, without a notifier: its alerts are read from its API.

    Args:
        folder: Its log.
        rules: The file of rules.
        victorialogs: The URL of VictoriaLogs.
    """

    name = "vmalert"

    def __init__(
        self, folder: Path, rules: Path, victorialogs: str, *, env: Mapping[str, str] | None = None,
        program: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(program or find_programs().vmalert, folder, env)
        self.rules, self.victorialogs = rules, victorialogs
        self.address = loopback()
        self.url = f"http://{self.address}"

    def command(self) -> list[str]:
        """Vmalert and its flags."""
        return [
            *(str(self.program), f"-httpListenAddr={self.address}", f"-rule={self.rules}"),
            *(f"-datasource.url={self.victorialogs}", "-notifier.blackhole"),
        ]

    def dry_run_command(self) -> list[str]:
        """Checks the rules and ends."""
        return [str(self.program), f"-rule={self.rules}", "-dryRun"]

    def is_ready(self) -> bool:
        """Whether it evaluates its rules."""
        return http.answers(f"{self.url}/health")

    def alerts(self) -> list[dict[str, Any]]:
        """All pending and firing alerts: ``name``, ``labels``, ``annotations``, ``state``, ``value``."""
        return list(http.get_json(f"{self.url}/api/v1/alerts")["data"]["alerts"])
