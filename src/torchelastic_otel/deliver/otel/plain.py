"""Any other push exporter: only what ``export()`` returns or raises is known of what became of a batch.

Not promised: a bound in time. Such an exporter cannot be cut from outside; it has a thread of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk._logs import LogRecordLimits

from torchelastic_otel.deliver.otel.attempt import one_line, quietly
from torchelastic_otel.deliver.otel.logs import log_record
from torchelastic_otel.deliver.outcome import Outcome, Verdict
from torchelastic_otel.model.event import Delivery


class PlainSender:
    """A :class:`~torchelastic_otel.deliver.outcome.Sender` around anything with an ``export(records)``.

    Args:
        exporter: The exporter.
        limits: Attribute limits of the records.
    """

    def __init__(self, exporter: Any, *, limits: LogRecordLimits) -> None:
        self.exporter = exporter
        self._limits = limits

    def send(self, batch: Sequence[Delivery]) -> Outcome:
        """Export the batch; ``SUCCESS`` or ``None`` is delivered, any other result a failure.

        An exception refuses the batch, so that one bad record is found by splitting; but an ``OSError`` (a
        connection, a file, any exception of requests) says nothing about the records and is tried again.
        """
        try:
            records = [log_record(delivery, self._limits) for delivery in batch]
            with quietly():
                result = self.exporter.export(records)
        except OSError as error:
            return Outcome(Verdict.RETRY, f"the exporter raised {type(error).__name__}: {error.strerror or ''}".strip())
        except Exception as error:  # noqa: BLE001 - every fault of an exporter is an outcome
            return Outcome(Verdict.REFUSED, f"the exporter raised {type(error).__name__}: {one_line(str(error))}")
        name = getattr(result, "name", "SUCCESS" if result is None else str(result))
        if name == "SUCCESS":
            return Outcome(Verdict.DELIVERED)
        return Outcome(Verdict.RETRY, f"the exporter answered {one_line(name, 40)}")

    def abort(self) -> None:
        """Nothing: there is no way in."""

    def close(self) -> None:
        """Shut the exporter down, where it can be."""
        with contextlib.suppress(Exception):
            self.exporter.shutdown()
