"""Where the two stairs meet, in one process: its spool, the pipeline that reads it, and its numbers.

What always holds: made and used on the writer thread, so that nothing of it costs torch's threads time; a
forked child makes one of its own and never touches its parent's.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from torchelastic_otel.deliver.destinations import Exporter, Registry
from torchelastic_otel.deliver.outcome import Sender
from torchelastic_otel.deliver.pipeline import Pipeline
from torchelastic_otel.deliver.questions import questions, within
from torchelastic_otel.deliver.terms import terms_of
from torchelastic_otel.guard import guard
from torchelastic_otel.model.event import AttributeValue, Origin
from torchelastic_otel.model.measurement import Snapshot
from torchelastic_otel.model.origin_variables import JOB_VARIABLES, said_host_name
from torchelastic_otel.model.outside import Bridged, Outside
from torchelastic_otel.model.text import bounded
from torchelastic_otel.settings import Settings
from torchelastic_otel.spool import adoption, store
from torchelastic_otel.spool.directory import SpoolUnavailableError, folder, prepare
from torchelastic_otel.spool.faults import SpoolError

logger = logging.getLogger("torchelastic_otel")

NS_PER_MS: Final = 1_000_000
SHORTEST_STOP_NS: Final = 50 * NS_PER_MS
"""What threads that have nothing left to do are given to end, so that the spool can be closed."""


class Counting(Protocol):
    """Who counts what this process says: the writer."""

    def take_snapshot(self, outside: Outside) -> Snapshot:
        """The numbers at this moment; ``outside`` are those that do not come from events."""
        ...

    def acknowledge_snapshot(self, accepted: Snapshot) -> bool:
        """A snapshot was accepted; whether something was held back, so that more is wanted."""
        ...

    def wants_snapshot(self) -> bool:
        """Whether a snapshot is wanted soon."""
        ...


class ProcessLanding:
    """The spool and the pipeline of this process.

    Args:
        settings: Our settings.
        registry: Which exporters a destination leads to.
        environ: The environment, as it was at installation.
        measured: What torch measured of its own agent so far; from any thread.

    Attributes:
        started_ns: When the process began to be watched, wall clock nanoseconds.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        environ: Mapping[str, str],
        measured: Callable[[], Mapping[str, Bridged]] = dict,
    ) -> None:
        self._settings = settings
        self._measured = measured
        self._counting: Counting | None = None
        self._registry = registry
        self._environ = environ
        self._directory = spool_directory(settings, logger.warning)
        self._owned: adoption.Owned | None = None
        self._origin = Origin(
            id=uuid.uuid4().hex,
            host_name=bounded(said_host_name(environ) or socket.gethostname()),
            pid=os.getpid(),
            started_ns=time.time_ns(),
            environment={name: environ[name] for name in JOB_VARIABLES if name in environ},
        )
        self.started_ns = self._origin.started_ns
        self.pipeline = Pipeline(
            self._make_sender,
            registry.exporters_of,
            terms=terms_of(environ, settings, logger.warning),
            numbers=self,
            detect=self._detect,
            directory=self._directory,
            max_bytes=settings.spool_max_bytes,
        )

    @property
    def path(self) -> Path | None:
        """The spool's file; ``None`` where it is in memory."""
        return self._owned.path if self._owned is not None else None

    # --- capture.writer.Landing

    def open_spool(self) -> store.Spool:
        """This process's spool; the exporters begin to load."""
        self.seen(("null", "dynamic_rendezvous"))
        spool = self._on_disk()
        if spool is None:
            spool = self.open_memory(1)
        self.pipeline.start()
        return spool

    def _on_disk(self) -> store.Spool | None:
        if self._directory is None:
            return None
        try:
            owned = adoption.create(self._directory, self._origin.id, self._settings.spool_max_bytes)
        except SpoolError as error:
            _memory_only(error, logger.warning)
            return None
        try:
            self.pipeline.add(owned.spool, self._origin)
        except SpoolError as error:
            # a disk that was full after the first pages
            _memory_only(error, logger.warning)
            owned.discard()
            return None
        self._owned = owned
        return owned.spool

    def open_memory(self, first_sequence: int) -> store.Spool:
        """Where events go on when the spool's disk fails."""
        spool = store.create_in_memory(self._settings.spool_max_bytes, first_sequence)
        self.pipeline.add(spool, self._origin)
        return spool

    def seen(self, destinations: Iterable[str]) -> Mapping[str, str]:
        """Rows of these destinations come next; the key that rows of each are kept under."""
        keys = {destination: self._registry.key_of(destination) for destination in destinations}
        self.pipeline.see(keys.values())
        return keys

    def committed(self) -> None:
        """New rows can be read."""
        self.pipeline.wake()

    # --- deliver.metrics_route.Numbers

    def numbers_come_from(self, counting: Counting) -> None:
        """Who counts; before that there are no numbers."""
        self._counting = counting

    def take_snapshot(self) -> Snapshot:
        """The numbers of this process at this moment."""
        if self._counting is None:
            return Snapshot(self.started_ns, self.started_ns)
        outside = self.pipeline.outside(time.time_ns())
        return self._counting.take_snapshot(replace(outside, torch_metrics=self._measured()))

    def accepted(self, snapshot: Snapshot) -> bool:
        """A receiver has accepted a snapshot; whether another one is wanted soon."""
        return self._counting is not None and self._counting.acknowledge_snapshot(snapshot)

    def is_due(self) -> bool:
        """Whether a snapshot is wanted before the interval is over."""
        return self._counting is not None and self._counting.wants_snapshot()

    # --- the end

    def close(self, timeout_ns: int, *, drained: bool) -> None:
        """Stop the threads that stop in time; where everything is delivered, the spool becomes history."""
        timeout_ns = max(timeout_ns, SHORTEST_STOP_NS if drained else 0)
        if self.pipeline.stop(timeout_ns) and drained and self._owned:
            with guard:
                within(timeout_ns, self._owned.let_go)
        questions.end()

    # --- inside

    def _detect(self) -> dict[str, AttributeValue]:
        # all of the SDK, in time: see runtime._flush_before_threads_end
        from torchelastic_otel.deliver.otel import senders  # noqa: F401
        from torchelastic_otel.deliver.otel.resource import detect

        return detect(self._environ)

    def _make_sender(self, exporter: Exporter) -> Sender[Any]:
        from torchelastic_otel.deliver.otel.senders import make

        return make(exporter, self._settings, self._environ, logger.warning, self._directory)


def spool_directory(settings: Settings, warn: Callable[[str], object]) -> Path | None:
    """The folder of this user's spools; ``None``, with a warning, where there can be none."""
    temporary = Path(tempfile.gettempdir())
    asked = Path(settings.spool_dir) if settings.spool_dir else temporary
    trouble: SpoolUnavailableError | None = None
    for base in dict.fromkeys((asked, temporary)):
        try:
            directory = prepare(base, os.geteuid())
        except SpoolUnavailableError as error:
            trouble = trouble or error
        else:
            if trouble is not None:
                warn(f"{trouble}; using {folder(temporary, os.geteuid())}")
            return directory
    _memory_only(trouble, warn)
    return None


def _memory_only(why: Exception | None, warn: Callable[[str], object]) -> None:
    warn(f"no spool on disk: {why}; events are kept in memory and are lost if the agent is killed")
