"""Start a hub in ./var, deliver one product as a client would, show what happens, and keep the hub running.

Run by `make run`; again is safe: what was delivered before stays, and each run has a folder and a token of its own.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

TOP = Path(__file__).resolve().parent.parent
VAR = TOP / "var"
HUB = "http://127.0.0.1:8080"
PRODUCT = "guide"
PATIENCE = 60.0

CONFIGURATION = """\
# Written by `make run`; every key is explained in etc/datahub.toml.
[hub]
state = "{var}/state"
min_free = "100 MB"

[[listen]]
endpoint = "tcp:8080:interface=127.0.0.1"

[archive]
url = "file://{var}/archive"

[auth.tokens.me-at-home]
hash = "sha256:{digest}"
scopes = ["read", "write"]

[transfers.movers]
file = "local:{var}/deliveries"

[log]
directory = "{var}/log"
"""


def main() -> int:
    """Run it; the exit code is that of a shell command."""
    token = prepare()
    hub = subprocess.Popen(
        [Path(sys.executable).parent / "datahub", "serve", "--config", VAR / "datahub.toml"], stdin=subprocess.DEVNULL
    )
    signal.signal(signal.SIGTERM, lambda *_: hub.terminate())
    try:
        if not await_ready(hub):
            return hub.wait() or 1
        deliver(token)
        show_next(token)
        return hub.wait()
    except KeyboardInterrupt:
        return stop(hub)
    except Trouble as trouble:
        print(f"! {trouble}", file=sys.stderr)
        stop(hub)
        return 1


class Trouble(Exception):
    """What keeps the example from going on."""


def prepare() -> str:
    """Make the archive, the folders and a configuration with a fresh token; gives the token."""
    for folder in ("archive", "deliveries", "state", "log"):
        (VAR / folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(TOP / "README.md", VAR / "archive" / "readme.md")
    shutil.copytree(TOP / "docs", VAR / "archive" / PRODUCT, dirs_exist_ok=True)
    token = token_urlsafe(24)
    configuration = CONFIGURATION.format(var=VAR, digest=sha256(token.encode()).hexdigest())
    (VAR / "datahub.toml").write_text(configuration)
    print(f"  archive      {VAR / 'archive'}: the products 'readme.md' (a file) and '{PRODUCT}' (a folder)")
    print(f"  hub          {HUB}, configured by {VAR / 'datahub.toml'}, log in {VAR / 'log'}")
    return token


def await_ready(hub: subprocess.Popen[bytes]) -> bool:
    """Wait until the hub takes work; False when it has ended instead, having said why."""
    until = time.monotonic() + PATIENCE
    while hub.poll() is None:
        try:
            with urlopen(f"{HUB}/ready", timeout=2):
                # Another program at this port would answer, too; ours must be alive after it.
                time.sleep(0.2)
                return hub.poll() is None
        except (URLError, TimeoutError, ConnectionError):
            if time.monotonic() > until:
                raise Trouble(f"the hub is not ready after {PATIENCE:g} s: see {VAR / 'log' / 'app.log'}") from None
            time.sleep(0.1)
    return False


def call(path: str, token: str, **form: str) -> Any:
    """One request, as curl would send it; gives the answer's JSON."""
    body = urlencode(form).encode() if form else None
    request = Request(HUB + path, body, {"Authorization": f"Bearer {token}"})
    try:
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise Trouble(f"{path} was answered with {error.code}: {error.read().decode(errors='replace')}") from None


def deliver(token: str) -> None:
    """Submit one product and print each step as it happens."""
    destination = VAR / "deliveries" / time.strftime("%Y-%m-%d-%H%M%S")
    job = call("/submitTransfer", token, product_id=PRODUCT, destination_path=destination.as_uri())["job_id"]
    print(f"  submitted    product '{PRODUCT}' as job {job}")
    told: set[str] = set()
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        status = call(f"/transferStatus?job_id={job}", token)
        tell(status, told)
        if status["status"] == "SUCCESS":
            return
        if status["status"] == "ERROR":
            raise Trouble(f"the transfer ended with an error: {status['detailed_status']}")
        time.sleep(0.02)
    raise Trouble(f"the transfer is still {status['status']} after {PATIENCE:g} s: {status}")


def tell(status: dict[str, Any], told: set[str]) -> None:
    """Print the steps that were not told yet."""
    done = status["status"] == "SUCCESS"
    steps = {
        "staged": "time_staging_finished" in status and status["stager_status"],
        "moved": done and f"{status['progress']['done']} bytes in {status['files']} files",
        "verified": done and ", ".join(f"{name} {value}" for name, value in status.get("checksums", {}).items()),
        "it lies in": done and status["detailed_status"].partition(": ")[2],
    }
    for step, what in steps.items():
        if what and step not in told:
            told.add(step)
            print(f"  {step:<12} {what}")


def show_next(token: str) -> None:
    """Print the lines to paste for the next deliveries."""
    folder = (VAR / "deliveries" / "mine").as_uri()
    print(f"""
The hub keeps running; Ctrl-C stops it. From another terminal:

  TOKEN={token}
  curl -H "Authorization: Bearer $TOKEN" {HUB}/submitTransfer \\
       -d product_id=readme.md -d destination_path={folder}
  curl -H "Authorization: Bearer $TOKEN" "{HUB}/transferStatus?job_id=THE-JOB-ID-ABOVE"
  curl -H "Authorization: Bearer $TOKEN" -X DELETE {HUB}/transfers/THE-JOB-ID-ABOVE
  curl {HUB}/health
""")
    sys.stdout.flush()


def stop(hub: subprocess.Popen[bytes]) -> int:
    """Stop the hub and wait for its end."""
    hub.terminate()
    return hub.wait()


if __name__ == "__main__":
    sys.exit(main())
