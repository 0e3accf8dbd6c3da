"""A web server that breaks off, stalls and refuses as a test asks, and datasets from there."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from shards.sources.datasets import Dataset, RemoteFile

CONTENT = np.random.default_rng(0).bytes(300_000)


class Origin:
    """How the server behaves, and the requests it received."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder  # None: every address is one file of `content`
        self.content = CONTENT
        self.etag: str | None = '"first"'
        self.statuses: list[int] = []  # of the first answers, one a request
        self.break_after: int | None = None  # bytes of the next body, then the connection drops
        self.stall_after: int | None = None  # bytes of each tar, until `resume` is set
        self.resume = threading.Event()
        self.ranges = True  # whether it understands Range
        self.checks_if_range = True
        self.longest_range: int | None = None  # bytes of a 206 answer
        self.says_length = True
        self.requests: list[tuple[str, str | None]] = []  # file name, Range header
        self.sent: list[int] = []  # body bytes of each answer
        self.url = ""


class _Handler(SimpleHTTPRequestHandler):
    origin: Origin

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=self.origin.folder and str(self.origin.folder))

    def do_GET(self) -> None:
        origin, wanted = self.origin, self.headers["Range"]
        path = Path(self.translate_path(self.path))
        origin.requests.append((path.name, wanted))
        content, etag = origin.content, origin.etag
        if origin.folder and not path.is_file():
            super().do_GET()  # a listing, or 404
            return
        if origin.folder:
            content, etag = path.read_bytes(), f'"{path.stat().st_mtime_ns}"'
        if self.path == "/api/records/7":
            self._send(200, json.dumps({"files": [self._record_entry()]}).encode(), {})
            return
        if origin.statuses:
            self._send(origin.statuses.pop(0), b"no", {})
            return
        headers = {"ETag": etag} if etag else {}
        same = self.headers["If-Range"] in (None, etag) or not origin.checks_if_range
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and origin.ranges and same else 0
        if start and start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        elif start:
            body = content[start:][: origin.longest_range]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
            self._send(206, body, headers)
        else:
            self._send(200, content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if self.origin.says_length:
            self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        cut, self.origin.break_after = self.origin.break_after, None
        self.origin.sent.append(len(body[:cut]))  # before the client can have read it all
        if self.origin.stall_after is not None and self.path.endswith(".tar"):
            first, body = body[: self.origin.stall_after], body[self.origin.stall_after :]
            self.wfile.write(first)
            self.origin.resume.wait(60)
        self.wfile.write(body[:cut])
        self.close_connection = True

    def _record_entry(self) -> dict[str, Any]:
        checksum = "md5:" + hashlib.md5(self.origin.content).hexdigest()
        url = self.origin.url.replace("/file.tar", "/owner/repository-v1.zip")
        return {"key": "owner/repository-v1.zip", "checksum": checksum, "links": {"self": url}}

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path | None = None) -> Iterator[Origin]:
    """A server that listens inside the block; `url` is that of the folder or the file."""
    state = Origin(folder)
    handler = type("Handler", (_Handler,), {"origin": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}" + "/file.tar" * (folder is None)
        yield state
        state.resume.set()
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
