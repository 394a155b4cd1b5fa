"""A low limit of open files: it is raised, and no more connections are allowed than it has room for."""

from contextlib import ExitStack

import pytest

from app.server.open_files import OTHER_FILES
from tests.e2e.test_idle_connections import GET, is_open, status
from tests.support.live_server import SERVE
from tests.support.raw_http import server_process

LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (%d, %d))
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_limit_is_raised_and_connections_over_it_close_idle_ones(digits_model, workers):
    program = LIMIT % (100, OTHER_FILES + 200) + SERVE
    with server_process(digits_model, program, workers=workers, max_connections=4096) as server, ExitStack() as stack:
        clients = []
        for _ in range(300 * workers):
            clients.append(stack.enter_context(server.connect()))
            assert status(clients[-1], GET) == 200
            if len(clients) == 200:  # fewer than the limit of each worker
                assert all(map(is_open, clients))
        assert 0 < sum(map(is_open, clients)) <= 200 * workers
    (warning,) = server.log.complaints()
    limits = f"is {OTHER_FILES + 200}: 200 connections are allowed in a process, not 4096"
    assert warning == f"WARNING: the limit of open files (ulimit -n) {limits}"
