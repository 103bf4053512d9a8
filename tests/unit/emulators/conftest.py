"""The emulators of S3 and GCS in this process, each on a free port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_clients import gcs_client, s3_client


@pytest.fixture(scope="module")
def s3_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="module")
def s3(s3_data: Path) -> Iterator[Any]:
    from cloudflux.local.emulators.s3 import create_server

    server = create_server("127.0.0.1", 0, s3_data)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = s3_client(f"http://127.0.0.1:{server.port}", retries={"total_max_attempts": 1})
    client.create_bucket(Bucket="data")
    yield client
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gcs_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gcs")


@pytest.fixture(scope="module")
def gcs(gcs_data: Path) -> Iterator[Any]:
    from cloudflux.local.emulators.gcs import create_app, create_server

    server = create_server(create_app(gcs_data, rewrite_bytes_per_call=2**20))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        client = gcs_client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        client.create_bucket("data")
        yield client
        client.close()
        server.should_exit = True
        thread.join()
