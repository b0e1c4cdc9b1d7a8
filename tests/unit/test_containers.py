"""Whether containers are used is decided without noise, and without ever pulling an image."""

from __future__ import annotations

import contextlib
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from tests import containers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGE = "headrace.example/nobody-has-this:1"


@contextlib.contextmanager
def engine_without_images(socket: Path) -> Iterator[list[str]]:
    """Answers like an engine that has no image at all; yields what it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "the client"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            known = self.path.endswith("/version")
            body = b'{"ApiVersion":"1.44","MinAPIVersion":"1.24"}' if known else b'{"message":"No such image"}'
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            raise AssertionError(f"POST {self.path}: nothing may be pulled or started")

    with socketserver.ThreadingUnixStreamServer(str(socket), Answer) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("address", ["unix:///nonexistent/docker.sock", "tcp://192.0.2.1:2375", "ssh://there"])
def test_without_a_local_engine_no_client_is_even_imported(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    monkeypatch.setitem(sys.modules, "docker", None)
    assert not containers.has_image(containers.KAFKA_IMAGE)


def test_an_engine_that_is_gone_leaves_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docker.sock"
    with socketserver.UnixStreamServer(str(path), socketserver.BaseRequestHandler):
        pass
    assert path.exists()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    assert not containers.has_image(containers.KAFKA_IMAGE)


def test_an_image_that_is_not_there_is_not_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with engine_without_images(tmp_path / "docker.sock") as asked:
        assert not containers.has_image(IMAGE)
    assert any(IMAGE in path for path in asked), asked
