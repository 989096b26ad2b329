"""Where a writer lands in tests: real spools, who was told what, and what an agent says to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from torchelastic_otel import semconv
from torchelastic_otel.ingest.writer import Writer
from torchelastic_otel.model.event import ElasticEvent
from torchelastic_otel.model.inferred_event import InferredEvent
from torchelastic_otel.model.span import ElasticSpan
from torchelastic_otel.processing.metrics.self_metrics import SelfMetrics
from torchelastic_otel.processing.processor import SPANS
from torchelastic_otel.spool import store

if TYPE_CHECKING:
    from torchelastic_otel.ingest.queue import Record

BOUND = 1 << 20


class Landing:
    """Real spools, and who was told what."""

    started_ns = 0

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.spools: list[store.Spool] = []
        self.destinations: set[str] = set()
        self.commits = 0

    def _add(self, spool: store.Spool) -> store.Spool:
        self.spools.append(spool)
        if self.destinations:
            spool.subscribe({"x": sorted(self.destinations)})
        return spool

    def open_spool(self) -> store.Spool:
        """On disk where there is one."""
        if self.directory is None:
            return self._add(store.create_in_memory(BOUND))
        return self._add(store.create(self.directory / "a.spool", BOUND))

    def open_memory(self, first_sequence: int) -> store.Spool:
        """In memory."""
        return self._add(store.create_in_memory(BOUND, first_sequence))

    def register(self, destinations: Iterable[str]) -> dict[str, str]:
        """Subscribes one cursor to them all, on the newest spool."""
        destinations = set(destinations)
        new = set(destinations) - self.destinations
        if new:
            self.spools[-1].subscribe({"x": sorted(new)})
            self.destinations |= new
        return {destination: destination for destination in destinations}

    def self_metrics(self) -> SelfMetrics:
        """None yet."""
        return SelfMetrics()

    def on_commit(self) -> None:
        """Counts."""
        self.commits += 1

    def rows(self) -> list[tuple[int, ElasticEvent]]:
        """What all spools hold, one after the other."""
        return [
            (row.sequence, ElasticEvent.from_json(row.payload))
            for spool in self.spools
            for row in spool.rows()
            if row.destination != SPANS and not row.unprocessed
        ]

    def bodies(self) -> list[str]:
        """The bodies of it."""
        return [event.body for _, event in self.rows()]


def seen(*texts: str, destination: str = "null") -> list[Record]:
    """As the inlet hands them over."""
    return [(destination, text, 1_700_000_000_000_000_000 + n, n) for n, text in enumerate(texts)]


def keep(writer: Writer, observations: list[Record]) -> int:
    """As the inlet does it: kept while somebody waits, flushing when nobody does."""
    missed = writer.append(observations)
    writer.process()
    return missed


def fact(name: str, at: int, error_file: str | None = None, **attributes: object) -> Record:
    """What a hook says, as the inlet hands it over; attributes by their constants' names, in lower case."""
    told = {getattr(semconv, key.upper()): value for key, value in attributes.items()}
    ns = 1_700_000_000_000_000_000 + at
    return ("null", InferredEvent(name, {semconv.RUN_ID: "r", **told}, error_file=error_file).to_text(), ns, at)


def spans(landing: Landing) -> list[ElasticSpan]:
    """The spans that all spools hold."""
    rows = [row for spool in landing.spools for row in spool.rows()]
    return [ElasticSpan.from_json(row.payload) for row in rows if row.destination == SPANS]
