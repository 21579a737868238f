"""A real S3 server on the loopback interface, and a proxy that injects the faults of real networks."""

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import obstore

from storage.places.bucket import ObjectLocation
from storage.places.opening import open_location
from storage.places.place import Location
from tests.processes import free_port, wait_for

KEY, SECRET = "AKIANUMERATETESTS", "a-secret-that-is-seen-nowhere"
_START_SECONDS = 60.0
_HOLD_SECONDS = 50.0
_MOTO = "from moto.server import main; import sys; main(sys.argv[1:])"


@dataclass(frozen=True)
class ObjectServer:
    """The server at a port of the loopback interface."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> None:
        assert self.status("PUT", f"/{name}") == 200

    def status(self, method: str, path: str) -> int:
        """Send one request; the status of its response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        finally:
            connection.close()


def objects_below(location: Location) -> dict[str, bytes]:
    """All objects below a location by path, read with `obstore` alone."""
    assert isinstance(location, ObjectLocation)
    store = location.store
    paths = [meta["path"] for metas in obstore.list(store, location.key or None) for meta in metas]
    return {path: obstore.get(store, path).bytes().to_bytes() for path in paths}


def upload(folder: Location, uri: str) -> Location:
    """Copy all files of a folder to an object store; returns their new location."""
    target = open_location(uri)
    for path in folder.files(""):
        (target / path).write((folder / path).read())
    return target


def environment(url: str, cache: Path) -> dict[str, str]:
    """The environment variables that a user sets for a private server; each `cache` simulates one machine."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(cache),
    }


@contextmanager
def object_server(log: Path) -> Iterator[ObjectServer]:
    """moto's server in a process of its own."""
    server = ObjectServer(free_port())
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(server.port)],
            stdout=output,
            stderr=output,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        )

    def responds() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return server.status("GET", "/") > 0
        except OSError:
            return False

    try:
        wait_for(responds, _START_SECONDS, poll=0.05)
        yield server
    finally:
        process.terminate()
        process.wait()


@dataclass
class Request:
    """One request that the proxy received; numbers start at 1."""

    number: int
    method: str
    path: str
    sent: int
    span: str = ""
    """The requested range of bytes."""
    key: str = ""
    """The access key of its signature."""
    received: int = 0


@dataclass
class FaultyProxy:
    """Forwards requests, and injects the fault that `fault` returns: "500", "503", "403", "slow", "cut" or "hold".

    `fault` returns "" for a request without a fault. A held request waits until `gate` is set, but no longer than its
    client waits.
    """

    server: ObjectServer
    fault: Callable[[Request], str] = lambda request: ""
    slow_seconds: float = 0.5
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    lock: Any = field(default_factory=threading.Lock)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, method: str, part: str = "") -> int:
        """The number of requests with a method and with `part` in their path."""
        return sum(request.method == method and part in request.path for request in self.requests)

    def server_holds(self, path: str) -> bool:
        """Whether an object exists, according to the server itself."""
        return self.server.status("HEAD", path) == 200

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_one  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("Content-Length") or 0)
        with self.lock:
            signed = re.search(r"Credential=(\w+)/", handler.headers.get("Authorization") or "")
            request = Request(
                number=len(self.requests) + 1,
                method=handler.command,
                path=unquote(handler.path),
                sent=size,
                span=handler.headers.get("Range") or "",
                key=signed.group(1) if signed else "",
            )
            self.requests.append(request)
            fault = self.fault(request)
            if fault:
                self.faults[fault] = self.faults.get(fault, 0) + 1
        if fault == "cut":
            # The connection is reset after half of the request.
            handler.rfile.read(size // 2)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.connection.close()
            handler.close_connection = True
            return
        body = handler.rfile.read(size)
        if fault in ("500", "503", "403"):
            code = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}[fault]
            text = f"<Error><Code>{code}</Code><Message>{KEY} {SECRET}</Message></Error>".encode()
            self._respond(handler, int(fault), {"Content-Type": "application/xml"}, text)
            return
        if fault == "slow":
            time.sleep(self.slow_seconds)
        if fault == "hold":
            self.gate.wait(_HOLD_SECONDS)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        request.received = len(data)
        self._respond(handler, response.status, dict(response.getheaders()), data)

    def _respond(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
        handler.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "keep-alive"):
                handler.send_header(name, value)
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), None)
        handler.send_header("Content-Length", length if handler.command == "HEAD" and length else str(len(data)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data)
