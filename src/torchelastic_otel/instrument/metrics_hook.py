"""Torch's metrics of its own agent, observed on their way to the configured handler.

Guarantees:

- The user's handler (``configure``) gets each value as before, first, outside of the guard.
- No lock: a value is stored by one assignment into a dictionary, which a signal at any bytecode either precedes or
  follows. Torch puts values on the agent's main thread; of two threads that put the same name at once one may be lost.
- At most :data:`MAX_NAMES` names are stored, the first ones; torch's own exist from the beginning, as 0.

Facts (torch 2.2 to 2.15): ``put_metric``, ``publish_metric`` and what ``prof`` wraps all end in
``MetricStream.add_value``, looked up on the class at each call, so that callers that bound the others by name are
observed as well. ``prof`` names a method by its ``__qualname__``. Values are put at each poll, ten times a second by
default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from torchelastic_otel.guard import guard
from torchelastic_otel.instrument.arming import TORCH_ELASTIC, Patches, module, of_type, takes

if TYPE_CHECKING:
    from torchelastic_otel.processing.metrics.self_metrics import TorchMetric

MAX_NAMES: Final = 64
_MAX_NAME: Final = 200
_AGENTS: Final = (
    (".agent.server.api", "SimpleElasticAgent"),
    (".agent.server.local_elastic_agent", "LocalElasticAgent"),
)
_GROUP: Final = "torchelastic"
_Sums = tuple[int, float, float, float]
_NOTHING: Final[_Sums] = (0, 0, 0, 0)


class TorchMetrics:
    """See the header of this file.

    Args:
        elastic: The hooked package: torch's own, or a copy that a project brings.
    """

    def __init__(self, elastic: str = TORCH_ELASTIC) -> None:
        self._elastic = elastic
        self._series: dict[tuple[str, str], _Sums] = {}

    def install(self, patches: Patches) -> None:
        """Install the hook; ``patches`` removes it.

        Raises:
            IncompatibleTorchError: This torch has no such stream of metrics.
            ImportError: It has no metrics at all.
        """
        api = module(self._elastic + ".metrics.api")
        stream = of_type(api, "MetricStream", type)
        original = stream.add_value
        takes(original, "metric_name", "metric_value")
        for name in _profiled(api, self._elastic):
            for what in ("success", "failure", "duration.ms"):
                self._series.setdefault((_GROUP, f"{name}.{what}"), _NOTHING)
        put = self._put

        def add_value(self: Any, metric_name: str, metric_value: int) -> None:
            original(self, metric_name, metric_value)
            with guard:
                put(self.group_name, metric_name, metric_value)

        add_value.__wrapped__ = original  # type: ignore[attr-defined]
        patches.put(stream, "add_value", add_value)

    def read(self) -> Mapping[str, TorchMetric]:
        """The values so far, by group and name; from any thread."""
        from torchelastic_otel.processing.metrics.self_metrics import TorchMetric

        return {
            f"{group}/{name}": TorchMetric(group, name, count, total, last, most)
            for (group, name), (count, total, last, most) in self._series.copy().items()
        }

    def _put(self, group: object, name: object, value: object) -> None:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return
        series = (str(group)[:_MAX_NAME], str(name)[:_MAX_NAME])
        sums = self._series.get(series)
        if sums is None:
            if len(self._series) >= MAX_NAMES:
                return
            sums = _NOTHING
        count, total, _, most = sums
        if value < 0:  # a sum that falls would look like a reset
            self._series[series] = (count, total, value, most)
        else:
            self._series[series] = (count + 1, total + value, value, max(most, value))


def _profiled(api: Any, elastic: str) -> Iterator[str]:
    """The methods of torch's agents that ``prof`` has wrapped, by the names of their values."""
    for where, name in _AGENTS:
        try:
            agent = getattr(module(elastic + where), name)
        except (ImportError, AttributeError):
            continue  # half imported, or another torch: its names appear when values are put
        for method in vars(agent).values():
            code = getattr(method, "__code__", None)
            # this package's own hooks may wrap it in turn
            while code is not None and code.co_filename != api.__file__:
                method = getattr(method, "__wrapped__", None)
                code = getattr(method, "__code__", None)
            if code is not None:
                yield method.__qualname__
