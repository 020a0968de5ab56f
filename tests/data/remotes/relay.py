"""A simulated network that can be cut: a TCP relay on loopback between DVC and a server."""

import contextlib
import socket
import threading

from tests.servers import LOOPBACK


class Relay:
    """A relay that forwards bytes between its port and the target's until it is cut.

    While it is cut, it closes all open connections, and new ones before any byte is sent, like a network that fails
    during a pull. `mend` accepts connections again, on the same port.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self._bytes_left: int | None = None
        self.num_cuts = 0

    def __enter__(self) -> "Relay":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """Cut the connection now."""
        with self._lock:
            self._is_cut, self._bytes_left = True, None
            self.num_cuts += 1
            broken = list(self._open)
        for connection in broken:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def cut_after(self, num_bytes: int) -> None:
        """Cut the connection once the server has sent this many more bytes."""
        with self._lock:
            self._bytes_left = num_bytes

    def mend(self) -> None:
        """Accept connections again."""
        with self._lock:
            self._is_cut, self._bytes_left = False, None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            try:
                server = socket.create_connection((LOOPBACK, self._target_port))
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # avoids a 40 ms delay per small response
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                pump = threading.Thread(target=self._pump, args=(source, sink, source is server), daemon=True)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(16_384):
                if counts and self._spent(len(chunk)):
                    self.cut()
                    break
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._open -= {source, sink}

    def _spent(self, num_bytes: int) -> bool:
        with self._lock:
            if self._bytes_left is None:
                return False
            self._bytes_left -= num_bytes
            return self._bytes_left < 0
