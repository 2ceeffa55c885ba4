"""A TCP proxy in front of PostgreSQL that delays or cuts a connection at the statement that contains a text."""

from __future__ import annotations

import contextlib
import socket
import threading

CHUNK = 65_536


class DatabaseProxy:
    """Passes bytes between clients and a server on loopback.

    port: of the proxy. seen: how many requests contained the text of ``hold`` or ``cut``.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._held, self._cut = b"", b""
        self._passes, self.reached = threading.Event(), threading.Event()
        self._passes.set()
        self.seen = 0
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, text: bytes) -> None:
        """Do not pass requests that contain the text until ``release``: the server is slow."""
        self._passes.clear()
        self._begin(held=text)

    def release(self) -> None:
        """Pass everything again."""
        self._held = b""
        self._passes.set()

    def cut(self, text: bytes) -> None:
        """Pass the next request that contains the text, but cut the connection instead of its answer."""
        self._begin(cut=text)

    def close(self) -> None:
        """Cut all connections."""
        self.release()
        self._socket.close()
        for one in [*self._open]:
            one.close()

    def _begin(self, *, held: bytes = b"", cut: bytes = b"") -> None:
        self.seen = 0
        self.reached.clear()
        self._held, self._cut = held, cut

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open |= {client, server}
                dropped = threading.Event()
                for work in (self._requests, self._answers):
                    threading.Thread(
                        target=work, args=(client, server, dropped), daemon=True
                    ).start()

    def _requests(
        self, client: socket.socket, server: socket.socket, dropped: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while content := client.recv(CHUNK):
                if self._held and self._held in content:
                    self.seen += 1
                    self.reached.set()
                    self._passes.wait()
                if self._cut and self._cut in content:
                    self._cut = b""
                    dropped.set()
                    self.reached.set()
                server.sendall(content)
        self._end(client, server)

    def _answers(
        self, client: socket.socket, server: socket.socket, dropped: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(CHUNK):
                if dropped.is_set():
                    break
                client.sendall(content)
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
