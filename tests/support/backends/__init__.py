"""The real programs: a Collector, VictoriaLogs, Prometheus and Jaeger, each on loopback, on ports of its own.

Guarantees: nothing listens on anything but 127.0.0.1; a program has its ports, its data and its log for as long as its
object lives, so that it comes back unchanged after :meth:`Server.kill` and :meth:`Server.start`; each wait has a
deadline; if a program does not start, the error shows the end of its log.
"""

from tests.support.backends.collector import Collector
from tests.support.backends.jaeger import Jaeger, Span
from tests.support.backends.loki import Loki
from tests.support.backends.programs import Missing, Programs, find_loki, find_programs
from tests.support.backends.prometheus import Prometheus
from tests.support.backends.server import NotReady, Server, eventually
from tests.support.backends.stack import QUICKSTART, LogStore, Stack
from tests.support.backends.victorialogs import VictoriaLogs
from tests.support.backends.vmalert import VmAlert

__all__ = [
    "QUICKSTART",
    "Collector",
    "Jaeger",
    "LogStore",
    "Loki",
    "Missing",
    "NotReady",
    "Programs",
    "Prometheus",
    "Server",
    "Span",
    "Stack",
    "VictoriaLogs",
    "VmAlert",
    "eventually",
    "find_loki",
    "find_programs",
]
