"""A stand-in for the Hugging Face hub on this machine: repositories of models in memory, by HTTP.

It answers what huggingface_hub asks to create a repository, to commit files to it, small ones and
large ones, to list them, and to fetch them.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

POLL = 0.01  # seconds between looks whether the server is to end
TOKEN = "hf_of_a_test"
SMALL = 4_096  # bytes of a file that is committed as it is; a larger one is uploaded before


class HubStandIn:
    """Repositories, and whether each is private.

    Attributes:
        files: by the name of a repository, its files by path.
        private: by the name of a repository, whether it is private.
        claimed: sizes that are told instead of true ones, by repository and path.
    """

    def __init__(self):
        self.files, self.private, self.uploaded, self.claimed = {}, {}, {}, {}
        self.address = ""

    def commit_of(self, name):
        digest = hashlib.sha1()
        for path, content in sorted(self.files[name].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    def environment(self, home):
        """The environment of a process that takes this stand-in for the hub."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        mine = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {**kept, **mine, **quiet, "HF_TOKEN": TOKEN}

    def run(self, code, home, *arguments):
        """Run code in a process that takes this stand-in for the hub; return what it prints."""
        words = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
        environment = self.environment(home)
        done = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr


@contextmanager
def hub_stand_in():
    hub = HubStandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Answer,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(POLL,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            return self.send({})
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        name = re.search(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?/", path)[1]
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "shouldIgnore": False,
                      "uploadMode": "regular" if f["size"] <= SMALL else "lfs"}
                     for f in files]  # fmt: skip
            return self.send({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                href = f"{self.hub.address}/upload/{each['oid']}"
                each["actions"] = {"upload": {"href": href}}
            return self.send({"transfer": "basic", "objects": objects})
        for line in body.splitlines():  # a commit
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.hub.files[name][value["path"]] = self.hub.uploaded[value["oid"]]
        commit = self.hub.commit_of(name)
        address = f"{self.hub.address}/{name}/commit/{commit}"
        return self.send({"success": True, "commitOid": commit, "commitUrl": address})

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "forbidden":
            return self.send({"error": "You don't have the rights"}, 403)
        address = f"{self.hub.address}/{name}"
        if name in self.hub.files:
            return self.send({"error": "It exists already", "url": address}, 409)
        self.hub.files[name] = {}
        hidden = asked.get("private") or asked.get("visibility") == "private"
        self.hub.private[name] = bool(hidden)
        return self.send({"url": address, "name": name})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.uploaded[hashlib.sha256(content).hexdigest()] = content
        self.send({})

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        listed = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(/.+)?)?", path)
        fetched = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (listed[1], listed[3]) if listed else (fetched[1], fetched[2])
        if name not in self.hub.files:
            return self.send({"error": "Repository not found"}, 404, code="RepoNotFound")
        commit, files = self.hub.commit_of(name), self.hub.files[name]
        if revision not in (None, "main", commit):
            return self.send({"error": "Invalid rev id"}, 404, code="RevisionNotFound")
        if fetched:
            content = files.get(fetched[3])
            if content is None:
                return self.send({"error": "Entry not found"}, 404, code="EntryNotFound")
            return self.send(content, commit=commit)
        if listed[4]:  # a folder within the repository; nobody makes one that is asked for
            return self.send({"error": "Entry not found"}, 404, code="EntryNotFound")
        sizes = {p: self.hub.claimed.get((name, p), len(c)) for p, c in files.items()}
        if listed[2] == "tree":
            return self.send([
                {"type": "file", "path": p, "size": size, "oid": hashlib.sha1(files[p]).hexdigest()}
                for p, size in sizes.items()
            ])  # fmt: skip
        siblings = [{"rfilename": p, "size": size, "blobId": "0"} for p, size in sizes.items()]
        return self.send({"id": name, "modelId": name, "sha": commit, "siblings": siblings,
                          "private": self.hub.private.get(name, False), "tags": []})  # fmt: skip

    def do_HEAD(self):
        self.do_GET()

    def send(self, content, status=200, code=None, commit=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
