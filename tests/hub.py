"""A Hugging Face hub on the loopback interface, which stores what it receives and fails where a test wants it.

It implements what the client needs: repositories, paged trees, commits as ndjson, and Git's LFS protocol.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopbackOnlySecret"
LICENCES = ("unknown", "cc0-1.0", "mit")

_PAGE = 7
_LARGE = (".parquet", ".safetensors", ".model")
# Instead of a status: the connection is closed without a response.
_CUT = 0


@dataclass
class Repository:
    """The files of a repository, and the paths that each commit added or changed."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.parquet filter=lfs\n"})
    commits: list[list[str]] = field(default_factory=list)


@dataclass
class Hub:
    """The server's state; `faults` maps the kind and number of a request that fails to its status."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[tuple[str, int], int] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def fail(self, kind: str, number: int, status: int = _CUT) -> None:
        """Let the `number`-th request of a kind from now on fail."""
        self.faults[kind, self.counts[kind] + number] = status

    def __getitem__(self, name: str) -> Repository:
        kind, _, repository = name.partition(":")
        return self.repositories[kind, repository]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def git_hash(data: bytes) -> str:
    """The object id of a file in Git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    # Kind, method and path of each request; the kind is the name of the method that handles it.
    ROUTES = (
        ("validate", "POST", r"/api/validate-yaml"),
        ("create", "POST", r"/api/repos/create"),
        ("info", "GET", r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/revision/[^/]+)?"),
        ("tree", "GET", r"/api/(dataset|model)s/([^/]+/[^/]+)/tree/[^/]+"),
        ("preupload", "POST", r"/api/(dataset|model)s/([^/]+/[^/]+)/preupload/main"),
        ("commit", "POST", r"/api/(dataset|model)s/([^/]+/[^/]+)/commit/main"),
        ("batch", "POST", r"/(?:datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch"),
        ("upload", "PUT", r"/lfs/([0-9a-f]{64})"),
        ("resolve", "(?:GET|HEAD)", r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)"),
    )

    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle_any(self) -> None:
        """Handle one request."""
        path, body = unquote(urlsplit(self.path).path), self._body()
        matches = (
            (kind, match)
            for kind, method, pattern in self.ROUTES
            if re.fullmatch(method, self.command) and (match := re.fullmatch(pattern, path))
        )
        kind, match = next(matches, ("", None))
        if not match:
            self._send(404, {"error": f"no route {self.command} {path}"})
            return
        with self.hub.lock:
            self.hub.counts[kind] += 1
            fault = self.hub.faults.pop((kind, self.hub.counts[kind]), None)
        if fault == _CUT:
            self.close_connection = True
            self.connection.close()
        elif fault:
            self._send(fault, {"error": "injected fault"})
        elif kind not in ("validate", "upload") and self.headers["Authorization"] != f"Bearer {TOKEN}":
            reason = "Invalid credentials in Authorization header"
            self._send(401, {"error": reason}, {"X-Error-Message": reason})
        else:
            with self.hub.lock:
                getattr(self, kind)(body, *match.groups())

    do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815  (the names of http.server)

    def validate(self, body: bytes) -> None:
        head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        if head.get("license", "mit") not in LICENCES:
            self._send(400, {"errors": [{"message": '"license" must be one of the list'}], "warnings": []})
        else:
            self._send(200, {"errors": [], "warnings": []})

    def create(self, body: bytes) -> None:
        request = json.loads(body)
        name = f"{request['organization']}/{request['name']}"
        if request["organization"] != "ada":
            self._send(403, {"error": "You don't have the rights to create a repository there"})
            return
        self.hub.repositories[request["type"], name] = Repository(request.get("visibility") == "private")
        self._send(200, {"url": f"{self.hub.url}/{'datasets/' if request['type'] == 'dataset' else ''}{name}"})

    def info(self, body: bytes, kind: str, name: str) -> None:
        if repository := self._repository(kind, name):
            self._send(200, {"id": name, "private": repository.private, "sha": self._head(repository), "siblings": []})

    def tree(self, body: bytes, kind: str, name: str) -> None:
        if not (repository := self._repository(kind, name)):
            return
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        paths = sorted(repository.files)
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": git_hash(data), **self._lfs(path, data)}
            for path, data in ((path, repository.files[path]) for path in paths[start : start + _PAGE])
        ]
        next_page = f'<{self.hub.url}{urlsplit(self.path).path}?recursive=True&cursor={start + _PAGE}>; rel="next"'
        self._send(200, entries, {"Link": next_page} if start + _PAGE < len(paths) else {})

    def preupload(self, body: bytes, kind: str, name: str) -> None:
        if not (repository := self._repository(kind, name)):
            return
        modes = []
        for file in json.loads(body)["files"]:
            path, data = file["path"], repository.files.get(file["path"])
            large = path.endswith(_LARGE)
            oid = (hashlib.sha256(data).hexdigest() if large else git_hash(data)) if data is not None else None
            mode = "lfs" if large else "regular"
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": modes})

    def batch(self, body: bytes) -> None:
        objects = json.loads(body)["objects"]
        for large in objects:
            if large["oid"] not in self.hub.objects:
                large["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{large['oid']}", "header": {}}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(400, {"error": "the content has another hash than its id"})
            return
        self.hub.objects[oid] = body
        self._send(200, {})

    def commit(self, body: bytes, kind: str, name: str) -> None:
        if not (repository := self._repository(kind, name)):
            return
        changes: dict[str, bytes] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self._send(400, {"error": f"{value['path']} was never uploaded"})
                    return
                changes[value["path"]] = self.hub.objects[value["oid"]]
        repository.files |= changes
        repository.commits.append(sorted(changes))
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        head = self._head(repository)
        self._send(200, {"commitUrl": f"{url}/commit/{head}", "commitOid": head})

    def resolve(self, body: bytes, kind: str | None, name: str, path: str) -> None:
        if not (repository := self._repository("dataset" if kind else "model", name)):
            return
        if path not in repository.files:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound"})
            return
        data = repository.files[path]
        self._send(200, data, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": self._head(repository)})

    def _repository(self, kind: str, name: str) -> Repository | None:
        """A repository; if it does not exist, the response is 404."""
        if (kind, name) not in self.hub.repositories:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self.hub.repositories.get((kind, name))

    def _head(self, repository: Repository) -> str:
        return hashlib.sha1(str(len(repository.commits)).encode()).hexdigest()

    def _lfs(self, path: str, data: bytes) -> dict[str, object]:
        if not path.endswith(_LARGE):
            return {}
        return {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
