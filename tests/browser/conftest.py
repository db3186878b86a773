"""A real JupyterLab and a real Chromium; the tests are skipped, with the reason, where one of them is missing.

Both last for one module. The reason is playwright: while it is started an event loop runs in the thread, and whatever
else the same process tests afterwards couldn't start one of its own.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen
from uuid import uuid4

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 300  # for what takes a few seconds on an idle machine: a kernel's imports may take a minute
CHROMIUM = os.environ.get("IMAGELAB_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def missing():
    """What these tests need and this machine doesn't have, in words; empty where they can run."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright isn't installed: make setup"
    if CHROMIUM is None:
        return "no chromium on the PATH: apt-get install chromium, or set IMAGELAB_CHROMIUM to one"
    return ""


def pytest_runtest_makereport(item, call):
    """Keep what the browser showed when a test failed, and say where."""
    page = item.funcargs.get("page") if hasattr(item, "funcargs") else None
    if call.excinfo is None or page is None or call.excinfo.errisinstance(pytest.skip.Exception):
        return
    path = item.config.rootpath / f"outputs/browser/{item.name}.png"
    try:
        page.screenshot(path=path, timeout=30_000)
    except Exception as error:  # noqa: BLE001  the browser may be what failed
        path = f"none, {error}"
    item.add_report_section(call.when, "screenshot", str(path))


@pytest.fixture(scope="module")
def browser():
    if reason := missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]  # as root, and in a container
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE_SECONDS * 1000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Serve a copy of 40_explore; nothing of the user's JupyterLab, nor of this project's reports, is read or written.

    Its `url` opens the notebook, `root` is what is the project to its kernel.
    """
    root = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "notebooks/40_explore.ipynb", root)
    _settle(root / ".jupyter/SETTINGS/@jupyterlab")
    with _served(root) as (address, token):
        yield SimpleNamespace(url=f"{address}/lab/tree/40_explore.ipynb?reset&token={token}", root=root)


def _settle(folder):
    """Keep cells in the page that are scrolled out of sight, and ask nobody about news."""
    chosen = {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, settings in chosen.items():
        file = folder / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings), encoding="utf-8")


@contextmanager
def _served(root):
    """Run a server in a folder until the block ends: its address and its token."""
    token, port = uuid4().hex, _free_port()
    own = {
        f"JUPYTER{suffix}": str(root / ".jupyter" / suffix) for suffix in ("_CONFIG_DIR", "_DATA_DIR", "_RUNTIME_DIR")
    }
    own |= {f"JUPYTERLAB_{kind}_DIR": str(root / ".jupyter" / kind) for kind in ("SETTINGS", "WORKSPACES")}
    own |= {"IMAGELAB_ROOT": str(root), "IMAGELAB_CONFIGS": str(ROOT / "configs"), "JUPYTER_PREFER_ENV_PATH": "1"}
    own |= {"PYTHONPATH": str(ROOT)}  # the kernel runs in another folder: these sources, whichever are installed
    log = root / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=os.environ | own, cwd=root, stdout=stream, stderr=stream)
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/api", server, log)
        yield f"http://127.0.0.1:{port}", token
    finally:
        _end(server)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_until_it_answers(url, server, log):
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            with urlopen(url, timeout=10):  # noqa: S310  an address of our own
                return
        except OSError:
            time.sleep(0.2)
    end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    pytest.fail(f"JupyterLab didn't answer within {PATIENCE_SECONDS} s; the end of its log:\n{end}")


def _end(server):
    server.terminate()  # it ends its kernels first
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
