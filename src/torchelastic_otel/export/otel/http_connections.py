"""Connections of requests and urllib3 that another thread can shut down.

Guarantees: the newest socket of a session has a second handle here, which is closed no later than the sender, and never
while another thread shuts it down.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import ProxyManager

from torchelastic_otel.export.otel.cancellation import CancellationScope


class SocketHandle:
    """A second handle on the newest socket, so that it can be shut down whatever urllib3 does with its own.

    The TLS layer takes over the first handle, and urllib3 drops it while a response is still being read.
    """

    def __init__(self, cancellation: CancellationScope) -> None:
        self._cancellation = cancellation
        self._handle: socket.socket | None = None
        self._connection: Any = None

    def open(self, connection: Any, live: socket.socket) -> None:
        """A connection has a socket: a cancellation shuts this one down from now on."""
        self.release()
        self._connection, self._handle = connection, live.dup()
        self._cancellation.on_cancel(self._shut_down)

    def release_if_closed(self) -> None:
        """Close the handle if urllib3 has closed the connection; else the server would not notice."""
        if self._connection is not None and self._connection.sock is None:
            self.release()

    def release(self) -> None:
        """Close the handle."""
        # First remove the callback, under its lock: a descriptor that is closed while it is being shut down may by
        # then be another socket.
        self._cancellation.on_cancel(None)
        handle, self._handle, self._connection = self._handle, None, None
        if handle is not None:
            handle.close()

    def _shut_down(self) -> None:
        handle = self._handle
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)


class Adapter(HTTPAdapter):
    """requests' own adapter, whose connections register their sockets."""

    def __init__(self, handle: SocketHandle) -> None:
        self._pools = {"http": _pool(HTTPConnectionPool, handle), "https": _pool(HTTPSConnectionPool, handle)}
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests for direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Called by requests for each proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        if type(manager) is ProxyManager:
            manager.pool_classes_by_scheme = self._pools
        return manager


def _pool(base: Any, handle: SocketHandle) -> Any:
    class Connection(base.ConnectionCls):  # type: ignore[misc]
        def _new_conn(self) -> Any:
            live = super()._new_conn()
            handle.open(self, live)
            return live

    return type(base.__name__, (base,), {"ConnectionCls": Connection})
