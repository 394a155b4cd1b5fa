"""Clients that read a response slowly get all of it, also from a service that drains or has too many connections."""

import os
import signal
import socket
import time
from contextlib import ExitStack

from tests.support.raw_http import ServerProcess, read_response, server_process

LARGE = b"GET /sample?n=4000&seed=1 HTTP/1.1\r\nHost: vae\r\nAccept: application/x-npy\r\n\r\n"
STATIC = b"GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: vae\r\n\r\n"
MAX_CONNECTIONS = 5


def connect(server: ServerProcess) -> socket.socket:
    """A connection with small buffers, so that most of a response waits in the service until the client reads it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.settimeout(30)
    client.connect(("127.0.0.1", server.port))
    return client


def begin(server: ServerProcess, request: bytes) -> socket.socket:
    """A connection on which a response has begun that is left to read."""
    client = connect(server)
    client.sendall(request)
    client.recv(1, socket.MSG_PEEK)
    return client


def test_a_drain_waits_until_responses_are_read_of_images_and_of_files(digits_model):
    with server_process(digits_model) as server, ExitStack() as stack:
        clients = [stack.enter_context(begin(server, request)) for request in (LARGE, STATIC)]
        os.kill(server.pid, signal.SIGTERM)
        for client in clients:  # the service waits for the second one also without the first
            time.sleep(1.5)  # the service could have exited
            response = read_response(stack.enter_context(client.makefile("rb")))
            assert response is not None
            assert len(response.body) == int(response.headers["content-length"]) > 200_000
            client.close()
    assert server.log.complaints() == []


def test_responses_that_are_not_read_until_the_graceful_timeout_are_aborted_without_an_error(digits_model):
    with server_process(digits_model, exit_code=1, graceful_timeout_s=0.5) as server:
        clients = [begin(server, request) for request in (LARGE, STATIC)]
    for client in clients:
        client.close()
    complaints = server.log.complaints()
    assert complaints
    assert all(complaint.startswith("WARNING: ") for complaint in complaints)


def test_a_client_that_still_reads_its_response_is_not_closed_for_a_new_connection(digits_model):
    with server_process(digits_model, max_connections=MAX_CONNECTIONS) as server, ExitStack() as stack:
        client = stack.enter_context(begin(server, LARGE))
        time.sleep(0.5)  # the response is complete for the application, and most of it unsent
        for _ in range(2 * MAX_CONNECTIONS):
            stack.enter_context(connect(server))
            time.sleep(0.02)
        response = read_response(stack.enter_context(client.makefile("rb")))
        assert response is not None
        assert len(response.body) == int(response.headers["content-length"])
