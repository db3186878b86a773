"""Downloads that break off: imagelab makes none itself, so what counts is what it says of the cache they leave."""

import hashlib
import json
import os
import re
import shlex
import subprocess
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest

from imagelab.config import HubModel, Source
from imagelab.errors import ModelFileError, ModelNotFoundError
from imagelab.models import check_base, file_sha256, resolve_source

ROOT = Path(__file__).parents[2]
MODEL = HubModel(repo="puppets/studio", revision="5" * 40)
UNET = "unet/diffusion_pytorch_model.safetensors"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as a download asks for; it serves one folder, and one file of it haltingly."""

    protocol_version = "HTTP/1.1"
    folder: Path
    halfway: Event  # half of the UNet has gone out for the first time
    ended: Event

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == f"/api/models/{MODEL.repo}/tree/{MODEL.revision}":
            return self._send(json.dumps(self._tree()).encode(), {"Content-Type": "application/json"})
        file = self.folder / path.removeprefix(f"/{MODEL.repo}/resolve/{MODEL.revision}/")
        if not file.is_file():
            return self.send_error(404)
        data, tag = file.read_bytes(), file_sha256(file)
        headers = {"ETag": f'"{tag}"', "X-Linked-ETag": f'"{tag}"', "X-Linked-Size": len(data)}
        headers |= {"X-Repo-Commit": MODEL.revision, "Accept-Ranges": "bytes"}
        if start := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(start[1])
            return self._send(
                data[first:], headers | {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}, 206
            )
        return self._send(data, headers, halting=file == self.folder / UNET)

    do_HEAD = do_GET  # noqa: N815  the server's name for it

    def _tree(self):
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [
            {
                "type": "file",
                "path": path.relative_to(self.folder).as_posix(),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest(),
                "lfs": {"oid": file_sha256(path), "size": path.stat().st_size, "pointerSize": 134},
            }
            for path in files
        ]

    def _send(self, data, headers, status=200, *, halting=False):
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if halting and not self.halfway.is_set():
            self.wfile.write(data[: len(data) // 2])
            self.halfway.set()
            self.ended.wait(240)
            self.close_connection = True
            return
        self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serving(folder):
    given = {"folder": folder, "halfway": Event(), "ended": Event()}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), given)) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", given["halfway"]
        finally:
            given["ended"].set()
            server.shutdown()


def test_of_two_downloads_of_one_model_one_is_killed_and_no_half_of_it_is_ever_taken_for_whole(
    configs, tmp_path, monkeypatch
):
    """Matrix C8, by the very command that the error names."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    source = Source(hub=MODEL)
    with pytest.raises(ModelNotFoundError, match="Run `") as refusal:
        resolve_source(source, "base model")
    command = shlex.split(re.search("Run `(.*?)`", str(refusal.value))[1])
    original = resolve_source(configs.profile("puppet").base)
    with serving(original) as (address, halfway):
        here = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        begin = {"cwd": ROOT, "env": {**os.environ, **here, "HF_HUB_DISABLE_TELEMETRY": "1"}}
        begin |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **begin) as first:
            assert halfway.wait(120), first.stderr.read()
            assert list((tmp_path / "hub").rglob("*.incomplete"))
            with pytest.raises((ModelNotFoundError, ModelFileError), match=r"Run `|Fetch or copy the model again"):
                check_base(source, resolve_source(source, "base model"), "float32")
            with subprocess.Popen(command, **begin) as second:
                first.kill()
                assert first.wait(60) == -9
                with pytest.raises((ModelNotFoundError, ModelFileError), match=r"Run `|Fetch or copy the model again"):
                    check_base(source, resolve_source(source, "base model"), "float32")
                said = second.communicate(timeout=240)[1]
                assert second.returncode == 0, said
    hashes = check_base(source, resolve_source(source, "base model"), "float32")
    assert UNET in hashes
    assert hashes == {name: file_sha256(original / name) for name in hashes}
