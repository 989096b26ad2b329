"""What a spool says of numbers: whom they were told, how far, and so what is left to tell of a process that is gone.

What always holds: what is on its way is noted before it is sent, so that whoever adopts the spool sends the same
again, and then what came after it; numbers that went another way are left alone; no counter ever falls.

Layout, in the spool's meta: ``tally`` (the counts, by settling), ``tally_exporters`` (the names of the metrics
exporters of its process, JSON), and for each of them ``tally_sent <name>``: two snapshots, what was told for sure and
what may have been (JSON).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export import metric_delta
from torchelastic_otel.export.final_snapshots import last_snapshots
from torchelastic_otel.export.metric_delta import Measured
from torchelastic_otel.export.sources import SpoolSource
from torchelastic_otel.model.metric import Snapshot
from torchelastic_otel.processing.processor import TALLY_KEY
from torchelastic_otel.spool.store import Spool

logger = logging.getLogger("torchelastic_otel")

TALLY_SENT_KEY: Final = "tally_sent"
TALLY_EXPORTERS_KEY: Final = "tally_exporters"

LastNumbers: TypeAlias = Callable[[str], Sequence[Snapshot]]
"""The last snapshots of a process that is gone, in order, from the tally that its spool keeps."""


def note_exporters(spool: Spool, names: Iterable[str]) -> None:
    """Note who is told the numbers of the spool's process.

    Raises:
        SpoolError: It cannot be noted.
    """
    spool.put_meta(TALLY_EXPORTERS_KEY, json.dumps(sorted(names)))


class TallyNotes:
    """The notes of one metrics exporter.

    Args:
        name: The name of its cursor.
        last_numbers: The numbers of a process that is gone.
    """

    def __init__(self, name: str, last_numbers: LastNumbers = last_snapshots) -> None:
        self._name = name
        self._last_numbers = last_numbers

    def note(self, spool: Spool, measured: Measured) -> None:
        """Note what is being told: what was told before it, and up to where it goes."""
        text = json.dumps([metric_delta.to_json(measured.base), metric_delta.to_json(measured.snapshot)])
        try:
            spool.put_meta(f"{TALLY_SENT_KEY} {self._name}", text)
        except SpoolError as error:
            logger.debug("%s", error)

    def left_of(self, source: SpoolSource) -> list[Measured]:
        """What is not told of a dead process: the difference that was on its way, and what came after it.

        Raises:
            SpoolError: The spool cannot tell.
            ValueError: What it tells is of another version, or damaged.
        """
        tally = source.spool.meta(TALLY_KEY)
        exporters = source.spool.meta(TALLY_EXPORTERS_KEY)
        if tally is None or (exporters is not None and self._name not in json.loads(exporters)):
            return []  # there are no numbers, or they went another way
        noted = source.spool.meta(f"{TALLY_SENT_KEY} {self._name}")
        base, told = (metric_delta.from_json(each) for each in json.loads(noted)) if noted is not None else (None, None)
        left = []
        if told is not None and base != told:
            # whether it arrived, nobody knows: the same again, which a receiver can tell
            left.append(Measured(source.origin, told, base))
        for snapshot in self._last_numbers(tally):
            while (last := metric_delta.last_of(snapshot, told)) is not None:
                # what this exporter never told begins with 0, whatever others were told
                last = metric_delta.beginning(last, metric_delta.values_of(told) if told is not None else ())
                left.append(Measured(source.origin, last, told))
                told = last
        return left
