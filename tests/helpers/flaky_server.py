"""A server of one file that misbehaves as it is told, and datasets that come from there."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from shards.sources.datasets import Dataset, RemoteFile

CONTENT = np.random.default_rng(0).bytes(300_000)
ETAG = '"first"'


class Origin:
    """What the server does, and what was asked of it."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = ETAG
        self.statuses: list[int] = []  # answered first, one a request
        self.break_after: int | None = None  # bytes of the next body, then the connection drops
        self.ranges = True  # whether it understands Range
        self.checks_if_range = True
        self.longest_range: int | None = None  # bytes of a 206 answer
        self.says_length = True
        self.requests: list[str | None] = []  # the Range header of each
        self.sent: list[int] = []  # body bytes of each answer
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    origin: Origin

    def do_GET(self) -> None:
        origin, wanted = self.origin, self.headers["Range"]
        origin.requests.append(wanted)
        if self.path == "/api/records/7":
            self._send(200, json.dumps({"files": [self._record_entry()]}).encode(), {})
            return
        if origin.statuses:
            self._send(origin.statuses.pop(0), b"no", {})
            return
        headers = {"ETag": origin.etag} if origin.etag else {}
        condition = self.headers["If-Range"]
        same = condition in (None, origin.etag) or not origin.checks_if_range
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and origin.ranges and same else 0
        if start > len(origin.content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(origin.content)}"})
        elif start:
            body = origin.content[start:][: origin.longest_range]
            last, total = start + len(body) - 1, len(origin.content)
            headers["Content-Range"] = f"bytes {start}-{last}/{total}"
            self._send(206, body, headers)
        else:
            self._send(200, origin.content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if self.origin.says_length:
            self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        cut, self.origin.break_after = self.origin.break_after, None
        self.origin.sent.append(len(body[:cut]))  # before the client can have read it all
        self.wfile.write(body[:cut])
        self.close_connection = True

    def _record_entry(self) -> dict[str, Any]:
        checksum = "md5:" + hashlib.md5(self.origin.content).hexdigest()
        url = self.origin.url.replace("/file.tar", "/owner/repository-v1.zip")
        return {"key": "owner/repository-v1.zip", "checksum": checksum, "links": {"self": url}}

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Origin]:
    """A server that listens inside the block."""
    state = Origin()
    handler = type("Handler", (_Handler,), {"origin": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/file.tar"
        yield state
        server.shutdown()
        thread.join()


def dataset(url: str, **changes: Any) -> Dataset:
    file = RemoteFile(url=url, name="file.tar", checksum=changes.pop("checksum", None))
    entry: dict[str, Any] = {
        "name": "steel",
        "title": "Steel",
        "citation": "A. Author, 2020",
        "doi": "10.1/steel",
        "files": (file,),
        "confirmed": True,
    }
    return Dataset(**entry | changes)


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "FETCHED.json").read_text()))
