"""A Hub on loopback for the tests of weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from hub_server import HubServer, hub_client, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A running Hub, and a client that talks to it and caches in a folder of its own."""
    home = tmp_path_factory.mktemp("hf_home")
    with running_hub() as server, hub_client(server.endpoint, home):
        yield server
    shutil.rmtree(home)
