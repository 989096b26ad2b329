"""``SignalException`` at any bytecode inside the handler comes out again, alone, and leaves nothing locked."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import torchelastic_otel
from tests.support.collector import refusing_port
from tests.support.drivers import Drive
from torchelastic_otel.ingest.handler import SpoolHandler
from torchelastic_otel.ingest.queue import IngestQueue
from torchelastic_otel.ingest.writer import Writer
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics
from torchelastic_otel.spool import store

PACKAGE = str(Path(torchelastic_otel.__file__).parent)


class SignalException(Exception):
    """Named as torch's is, and not torch's: projects that vendor elastic have their own."""


@pytest.mark.crash
def test_twenty_thousand_random_signals_come_out_as_they_went_in(drive: Drive) -> None:
    """Promise 1: real signals at random moments inside put, emit and record; no lock is left held, nothing is lost."""
    environ = {
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"http://127.0.0.1:{refusing_port()}/v1/logs",
    }
    storm = drive("signal_storm", 20_000, environ, flush_timeout="0")
    said = storm.heard()
    assert said["caught"]["inside"] >= 20_000
    assert said["others"] == []
    assert said["drained"] is True
    assert said["late"] == [True]
    assert said["missing"] == []
    assert said["kept"] > 0  # how many got through depends on how dense the storm is
    assert said["lost"] == 0
    assert said["beats"] > 100
    assert said["slowest_beat_s"] < 10  # the heartbeat thread is held by no lock that a signal left behind
    assert storm.ended()[0] == 0


class _Landing:
    """One spool in memory."""

    started_ns = 1

    def __init__(self) -> None:
        self.spool = store.create_in_memory(1 << 24)

    def open_spool(self) -> store.Spool:
        return self.spool

    def open_memory(self, first_sequence: int) -> store.Spool:
        raise AssertionError("memory does not fail")

    def register(self, destinations: Iterable[str]) -> dict[str, str]:
        return {destination: destination for destination in destinations}

    def on_commit(self) -> None:
        pass

    def self_metrics(self) -> SelfMetrics:
        return SelfMetrics()


def _raise_at(moment: int) -> tuple[Callable[..., Any], list[str]]:
    """A trace function that raises at the n-th bytecode that this thread runs inside the package."""
    left = [moment]
    where: list[str] = []

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] < 0 and not where:
                where.append(f"{frame.f_code.co_name}:{frame.f_lasti}")
                raise SignalException
        return trace

    return trace, where


@pytest.mark.parametrize("hung", [False, True])
def test_a_signal_at_every_single_bytecode_comes_out_and_leaves_no_lock(hung: bool) -> None:
    """Promise 1, exhaustively: each bytecode of the caller's path in turn, with a writer that answers or hangs."""
    landing = _Landing()
    go = threading.Event()
    go.set()

    class Keeper(Writer):
        def append(self, observations: Any) -> int:
            go.wait(60)
            return super().append(observations)

    inlet = IngestQueue(lambda: Keeper(landing), wait_s=0.001 if hung else 20.0)
    handler = SpoolHandler("null", inlet)
    record = logging.LogRecord("x", logging.INFO, "x", 1, "text", None, None)
    handler.handle(record)
    assert inlet.flush(20)
    moment, reached = 0, True
    places = set()
    while reached:
        if hung:
            go.clear()
        trace, where = _raise_at(moment)
        # Python 3.12 tells of single bytecodes only if somebody had asked for them when tracing begins
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        try:
            handler.handle(record)
            came_out: BaseException | None = None
        except BaseException as error:  # noqa: BLE001 - whatever comes out is the finding
            came_out = error
        finally:
            sys.settrace(None)
        reached = bool(where)
        places.update(where)
        assert (type(came_out) is SignalException) is reached, (where, came_out)
        go.set()
        if moment % 10 == 0 or not reached:
            results: list[bool] = []
            other = threading.Thread(target=lambda into=results: into.append(inlet.flush(20)))
            other.start()
            other.join(30)
            assert results == [True], where
            assert not inlet._stalled
        moment += 1
    assert len(places) > 60  # of the caller's path; how many there are differs between Pythons
    assert inlet.lost == 0
    assert landing.spool.last_sequence > 10
