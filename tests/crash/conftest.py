"""Drivers: real processes with a collector to send to and a spool directory of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.drivers import Drive, Driver


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """Starts drivers; whatever still runs at the end is killed."""
    running: list[Driver] = []

    def start(plan: str, count: int, environ: Mapping[str, str], **settings: str) -> Driver:
        ours = {f"TORCHELASTIC_OTEL_{name.upper()}": value for name, value in settings.items()}
        ours.setdefault("TORCHELASTIC_OTEL_SPOOL_DIR", str(tmp_path))
        # short waits, so that retries happen within a test
        driver = Driver(plan, count, {"OTEL_BLRP_SCHEDULE_DELAY": "10", **environ, **ours})
        running.append(driver)
        return driver

    yield start
    for driver in running:
        if driver.process.poll() is None:
            driver.process.kill()
        driver.ended(30)


@pytest.fixture
def spools(tmp_path: Path) -> Path:
    """Where the drivers' spools are."""
    return tmp_path / f"torchelastic-otel-{os.geteuid()}"
