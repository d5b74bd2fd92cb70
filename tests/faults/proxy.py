"""A proxy before MLflow's server that does what networks do."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

SLOW_S = 1.5


class FaultyProxy:
    """Forwards requests, and fails in one way until it is healed.

    Args:
        port: MLflow's.
        mode: `lost`: the third request and all later ones are refused; `error`: every second is
            answered with 500; `slow`: every one takes seconds; `reply-lost`: every third that
            changes something is carried out, and its reply dropped.
    """

    def __init__(self, port: int, mode: str) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                proxy._serve(self, port)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any

            def log_message(self, *_: Any) -> None:
                pass

        self.mode, self.faults, self._count = mode, 0, 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def heal(self) -> None:
        """Forward everything from now on."""
        self.mode = "well"

    def _serve(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self._count += 1
            number = self._count
        changes = handler.command != "GET" and "search" not in handler.path
        if self.mode == "lost" and number > 3:
            return self._drop(handler)
        if self.mode == "error" and number % 2:
            self.faults += 1
            handler.send_response(500)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return None
        if self.mode == "slow":
            self.faults += 1
            time.sleep(SLOW_S)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {k: v for k, v in handler.headers.items() if k.lower() != "host"}
        connection.request(handler.command, handler.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if self.mode == "reply-lost" and changes and number % 3 == 0:
            return self._drop(handler)
        handler.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                handler.send_header(key, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return None

    def _drop(self, handler: BaseHTTPRequestHandler) -> None:
        self.faults += 1
        handler.close_connection = True
        handler.connection.close()
