"""The queries of log records, in LogQL and in LogsQL, with the dashboards' variables in them.

Both languages have the same methods, so that a panel is written once. Differences:

- Loki replaces dots in the names of attributes by underscores, VictoriaLogs does not;
- Loki's queries name streams in braces, and service_name and cluster are its labels; VictoriaLogs' streams have the
  service, and the cluster is a field;
- Grafana's data source of Loki escapes the values of variables in patterns; for VictoriaLogs they are formatted here by
  Grafana's own formats (``:json``, ``:regex``), which do not depend on its plugin.
"""

# ruff: noqa: D102 (the methods of both languages are documented in their base class)
from abc import ABC, abstractmethod

from grafana_foundation_sdk.builders import loki
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.loki import LokiQueryDirection

from torchelastic_otel import semconv

EVENT_NAME = "event_name"


class LogQueries(ABC):
    """The queries of one language.

    Attributes:
        kind: The type of Grafana's data source.
        name: Its variable in the dashboards.
    """

    kind: str
    name: str

    @property
    def source(self) -> DataSourceRef:
        """The data source that is chosen in the dashboard."""
        return DataSourceRef(type_val=self.kind, uid=f"${{{self.name}}}")

    @abstractmethod
    def field(self, attribute: str) -> str:
        """The name of an attribute, in answers."""

    @abstractmethod
    def equals(self, attribute: str, value: str) -> str:
        """A filter: the attribute has this value."""

    @abstractmethod
    def differs(self, attribute: str, value: str) -> str:
        """A filter: the attribute has another value, or none."""

    @abstractmethod
    def chosen(self, attribute: str, variable: str) -> str:
        """A filter: the attribute has one of the values that are chosen of a variable."""

    @abstractmethod
    def of_run(self, *filters: str) -> str:
        """The log records of the run that the dashboard shows."""

    @abstractmethod
    def prefixed(self, expr: str, attribute: str) -> str:
        """The same records, with an attribute before their body."""

    @abstractmethod
    def records(self, expr: str, most: int = 100, *, newest_first: bool = True) -> Builder[Dataquery]:
        """Log records: the newest, or the oldest, of all that match."""

    @abstractmethod
    def count(self, expr: str, ref: str = "A") -> Builder[Dataquery]:
        """The number of log records in the dashboard's window."""

    @abstractmethod
    def newest_value(self, expr: str, attribute: str) -> Builder[Dataquery]:
        """The number that the newest log record has as an attribute."""

    def of_event(self, event: str, *filters: str) -> str:
        """The log records of one kind of event."""
        return self.of_run(self.equals(EVENT_NAME, event), *filters)

    def reported_once(self) -> str:
        """A filter: of what every agent reports of a round, the record of the job reporter."""
        return self.equals(semconv.WRITER, "true")


class LogQl(LogQueries):
    """Loki."""

    kind = name = "loki"

    def field(self, attribute):
        return attribute.replace(".", "_")

    def equals(self, attribute, value):
        return f'{self.field(attribute)}="{value}"'

    def differs(self, attribute, value):
        return f'{self.field(attribute)}!="{value}"'

    def chosen(self, attribute, variable):
        return f'{self.field(attribute)}=~"${variable}"'

    def of_run(self, *filters):
        # a cluster that is not set matches while all are chosen
        where = (self.equals(semconv.RUN_ID, "$run_id"), *filters)
        return '{service_name=~"$job", cluster=~"$cluster"}' + "".join(f" | {each}" for each in where)

    def prefixed(self, expr, attribute):
        return f"{expr} | line_format `{{{{ .{self.field(attribute)} }}}}: {{{{ __line__ }}}}`"

    def records(self, expr, most=100, *, newest_first=True):
        direction = LokiQueryDirection.BACKWARD if newest_first else LokiQueryDirection.FORWARD
        return self._query(expr, "A").query_type("range").max_lines(most).direction(direction)

    def count(self, expr, ref="A"):
        return self._query(f"sum(count_over_time({expr} [$__range]))", ref).query_type("instant")

    def newest_value(self, expr, attribute):
        run = self.field(semconv.RUN_ID)
        newest = f"last_over_time({expr} | unwrap {self.field(attribute)} [$__range]) by ({run})"
        return self._query(f"max({newest})", "A").query_type("instant")

    def _query(self, expr: str, ref: str) -> loki.Dataquery:
        return loki.Dataquery().datasource(self.source).expr(expr).ref_id(ref)


class _Query(Builder[Dataquery]):
    """A query of a data source that the SDK does not know."""

    def __init__(self, **fields):
        self._fields = fields

    def build(self):
        return UnknownDataquery(self._fields)


class LogsQl(LogQueries):
    """VictoriaLogs, with the plugin victoriametrics-logs-datasource."""

    kind = "victoriametrics-logs-datasource"
    name = "victorialogs"

    def field(self, attribute):
        return attribute

    def equals(self, attribute, value):
        return f'"{attribute}":="{value}"'

    def differs(self, attribute, value):
        return f'"{attribute}":!="{value}"'

    def chosen(self, attribute, variable):
        # backticks: no escaping within the pattern
        return f'"{attribute}":~`^(?:${{{variable}:regex}})$`'

    def of_run(self, *filters):
        where = (
            "{service.name=~`${job:regex}`}",
            self.chosen("cluster", "cluster"),
            f'"{semconv.RUN_ID}":=${{run_id:json}}',
            *filters,
        )
        return " ".join(where)

    def prefixed(self, expr, attribute):
        return f'{expr} | format "<{attribute}>: <_msg>" as _msg'

    def records(self, expr, most=100, *, newest_first=True):
        direction = "desc" if newest_first else "asc"
        return self._query(
            f"{expr} | sort by (_time) {direction} limit {most}", "A", queryType="instant", maxLines=most,
            direction="backward" if newest_first else "forward",
        )  # fmt: skip

    def count(self, expr, ref="A"):
        return self._query(f"{expr} | stats count() records | filter records:>0", ref, queryType="stats")

    def newest_value(self, expr, attribute):
        newest = f'{expr} | sort by (_time) desc limit 1 | stats max("{attribute}") newest | filter newest:*'
        return self._query(newest, "A", queryType="stats")

    def _query(self, expr: str, ref: str, **fields) -> _Query:
        source = {"type": self.kind, "uid": self.source.uid}
        return _Query(datasource=source, editorMode="code", expr=expr, refId=ref, **fields)


LANGUAGES: dict[str, LogQueries] = {"loki": LogQl(), "victorialogs": LogsQl()}
