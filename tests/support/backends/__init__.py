"""The real programs: a Collector, Loki, Prometheus and Jaeger, each on loopback, on ports of its own.

What always holds: nothing listens on anything but 127.0.0.1; a program has its ports, its data and its log for as long
as its object lives, so that it comes back as it was after :meth:`Server.kill` and :meth:`Server.start`; each wait has
an end; where a program does not start, the error shows the end of what it said.
"""

from support.backends.collector import Collector
from support.backends.jaeger import Jaeger, Span
from support.backends.loki import Loki
from support.backends.programs import Missing, Programs, find_programs
from support.backends.prometheus import Prometheus
from support.backends.server import NotReady, Server, eventually
from support.backends.stack import QUICKSTART, Stack

__all__ = [
    "QUICKSTART",
    "Collector",
    "Jaeger",
    "Loki",
    "Missing",
    "NotReady",
    "Programs",
    "Prometheus",
    "Server",
    "Span",
    "Stack",
    "eventually",
    "find_programs",
]
