"""A TCP relay on loopback that counts what passes through it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class Relay:
    """Passes bytes on to a loopback port.

    Attributes:
        port: Where it listens.
        to_server: Bytes passed to the server so far.
        connections: Clients that came so far.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listening]
        self.port: int = self._listening.getsockname()[1]
        self.to_server = 0
        self.connections = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for live in self._open:
            with contextlib.suppress(OSError):
                live.shutdown(socket.SHUT_RDWR)
            live.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open += [client, server]
                self.connections += 1
                for source, target, count in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=(source, target, count), daemon=True).start()

    def _pass(self, source: Any, target: Any, count: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if count:
                    self.to_server += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
