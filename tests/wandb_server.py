"""A W&B server that takes what it is given, for tests: what `wandb sync` uploads can be read back from it."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Notes runs by their id.

    Attributes:
        runs: for each id the last value of everything that was said about it (group, job type, tags, configuration,
            summary), and the rows of its history.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """W&B hangs up when it is done."""

    def run(self, name: str) -> dict[str, Any]:
        return self.runs.setdefault(name, {"history": []})

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """To an operation of W&B's GraphQL interface."""
        with self.lock:
            if operation == "UpsertBucket":
                run = self.run(variables["name"])
                run.update({key: value for key, value in variables.items() if value is not None})
                project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
                bucket = {"id": variables["name"], "name": variables["name"], "project": project, "config": "{}"}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            if operation == "CreateArtifact":
                return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {}}}}
            if operation == "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {"serverInfo": {"features": []}, "model": None}

    def stream(self, name: str, files: dict[str, Any]) -> None:
        """Lines of a run's history and summary."""
        with self.lock:
            history = files.get("wandb-history.jsonl", {}).get("content", [])
            self.run(name)["history"] += [json.loads(line) for line in history]
            for line in files.get("wandb-summary.json", {}).get("content", []):
                self.run(name)["summary"] = json.loads(line)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            answer = {"data": self.server.answer(asked["operationName"], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body).get("files") or {})
        self._reply(json.dumps(answer).encode())

    do_GET = do_PUT = do_POST  # noqa: N815

    def _reply(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server that answers inside the `with` block."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
