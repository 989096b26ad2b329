"""A real Kafka broker: one node of KRaft, clients by TLS and SCRAM, as ``gateway-kafka.yaml`` expects it.

It listens on 127.0.0.1 only; its ports and its data survive a kill. The jars are downloaded once, at one version, into
the user's cache. Each wait has a deadline.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.support.backends import Server
from tests.support.backends.server import loopback

VERSION = "4.1.0"
_ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"),  # without it a broker that does not start says nothing
)
_FETCH_S = 600.0
_TOOL_S = 300.0
_CONSOLE = """\
appenders = console
appender.console.type = Console
appender.console.name = STDERR
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c{1})%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = STDERR
"""


class NoKafka(Exception):
    """There is none here; the message is one line that says how to get it."""


@functools.cache
def find_jars() -> Path:
    """The folder of Kafka's jars; fetched by Maven where they are not in the cache yet. Raises :class:`NoKafka`."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        raise NoKafka(f"no {' and no '.join(missing)} here: the tests with a real Kafka need Java 17 and Maven")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchelastic-otel" / "backends"
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"kafka-{VERSION}"
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            _fetch(place)
    return place


def _fetch(place: Path) -> None:
    half = place.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in _ARTIFACTS
    )
    (half / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>torchelastic-otel</groupId>"
        f"<artifactId>kafka</artifactId><version>1</version><dependencies>{dependencies}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={half}"]
    done = subprocess.run(command, cwd=half, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"Maven could not fetch Kafka {VERSION}: {(done.stdout + done.stderr)[-2000:]}")
    half.rename(place)  # what is there is whole


class Kafka(Server):
    """One broker, its own controller.

    Args:
        folder: Its data and its log.
        certificate: For ``localhost`` and 127.0.0.1, and its key, both in PEM; its own authority.

    Attributes:
        brokers: Where clients find it (TLS, SCRAM-SHA-512).
        username: Theirs, and ``password``.
    """

    name = "kafka"

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        super().__init__(Path(shutil.which("java") or "java"), folder)
        self.jars = find_jars()
        self.brokers, self._inside, self._controller = loopback(), loopback(), loopback()
        self.username, self.password = "otelcol", secrets.token_hex(8)
        self._certificate = certificate[0]
        (folder / "keystore.pem").write_text(_pkcs8(certificate[1]) + certificate[0].read_text())
        (folder / "log4j2.properties").write_text(_CONSOLE)
        self._properties = folder / "server.properties"
        self._properties.write_text(self._settings())
        self._client = folder / "client.properties"
        self._client.write_text("default.api.timeout.ms=30000\n")
        self._run(
            "kafka.tools.StorageTool", "format", "--standalone", "--cluster-id", _cluster_id(), "--config",
            str(self._properties), "--add-scram", f"SCRAM-SHA-512=[name={self.username},password={self.password}]",
        )  # fmt: skip

    def command(self) -> list[str]:
        """The broker."""
        return [*self._java("-Xmx512m"), "kafka.Kafka", str(self._properties)]

    def is_ready(self) -> bool:
        """Whether clients can shake hands with it."""
        host, _, port = self.brokers.partition(":")
        context = ssl.create_default_context(cafile=str(self._certificate))
        try:
            with socket.create_connection((host, int(port)), 2) as raw, context.wrap_socket(raw, server_hostname=host):
                return True
        except OSError:
            return False

    def create_topic(self, name: str, partitions: int) -> None:
        """A topic, and wait until it is there."""
        self._tool("TopicCommand", "--create", "--topic", name, "--partitions", str(partitions))

    def offsets(self, group: str) -> dict[tuple[str, int], tuple[int, int]]:
        """For each topic and partition of a group: the offset that it told, 0 if none yet, and where the log ends."""
        said = self._tool("consumer.group.ConsumerGroupCommand", "--describe", "--offsets", "--group", group)
        found = re.findall(rf"^{re.escape(group)}\s+(\S+)\s+(\d+)\s+(\d+|-)\s+(\d+)", said, re.MULTILINE)
        return {
            (topic, int(partition)): (0 if told == "-" else int(told), int(end))
            for topic, partition, told, end in found
        }

    def _tool(self, name: str, *arguments: str) -> str:
        return self._run(
            f"org.apache.kafka.tools.{name}", "--bootstrap-server", self._inside, "--command-config", str(self._client),
            *arguments,
        )  # fmt: skip

    def _run(self, main: str, *arguments: str) -> str:
        done = subprocess.run(
            [*self._java("-Xmx128m"), main, *arguments], cwd=self.folder, env=self.environment(), capture_output=True,
            text=True, timeout=_TOOL_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{main} {' '.join(arguments)}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    def _java(self, *flags: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [str(self.program), "-XX:TieredStopAtLevel=1", *flags, logging, "-cp", f"{self.jars}/*"]

    def _settings(self) -> str:
        listeners = f"CLIENT://{self.brokers},INSIDE://{self._inside}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": self._controller,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listeners},CONTROLLER://{self._controller}",
            "advertised.listeners": f"{listeners},CONTROLLER://{self._controller}",
            "listener.security.protocol.map": "CLIENT:SASL_SSL,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "INSIDE",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "keystore.pem"),
            "log.dirs": str(self.data),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())


def _pkcs8(key: Path) -> str:
    """The key as Java reads it."""
    command: Sequence[str] = ["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(key)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _cluster_id() -> str:
    # sixteen bytes in base64; the first letter is ours, since one in 64 would be a dash, which reads as an option
    return "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
