"""The listener: binding, accepting, pausing, closing, and errors of the system."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.server.listener import Listener
from model.errors import UserError

pytestmark = pytest.mark.anyio


@contextmanager
def bound_listener(host: str = "127.0.0.1", port: int = 0) -> Iterator[Listener]:
    listener = Listener(host, port)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def clients(port: int, count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    yield sockets
    for client in sockets:
        client.close()


class Accepted(list[socket.socket]):
    """The connections passed to the callback; `wait_for` waits until there are this many."""

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self) < count:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        while self:
            self.pop().close()


@pytest.fixture
def accepted() -> Iterator[Accepted]:
    connections = Accepted()
    yield connections
    connections.close()


async def test_each_connection_is_passed_to_the_callback_once(accepted):
    with bound_listener() as listener:
        listener.start(accepted.append)
        with clients(listener.port, 200) as sockets:
            await accepted.wait_for(200)
            assert {client.getsockname() for client in sockets} == {connection.getpeername() for connection in accepted}
            assert len(accepted) == 200


def test_a_bound_port_accepts_no_connection_before_start():
    with bound_listener() as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.port))


@pytest.mark.parametrize("listening", [False, True])
async def test_a_bound_port_cannot_be_bound_again(accepted, listening):
    with bound_listener() as listener:
        if listening:
            listener.start(accepted.append)
        with pytest.raises(UserError, match=f"127.0.0.1 port {listener.port}: Address already in use"):
            Listener("127.0.0.1", listener.port)


def test_a_port_of_another_process_cannot_be_bound():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match="Address already in use"):
            Listener("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.invalid", "x" * 70])
def test_an_invalid_host_is_reported(host):
    with pytest.raises(UserError, match=f"host: expected an address of this machine or a name for one, got '{host}'"):
        Listener(host, 0)


async def test_a_port_with_recently_closed_connections_can_be_bound(accepted):
    with bound_listener() as listener:
        listener.start(accepted.append)
        with clients(listener.port, 1):
            await accepted.wait_for(1)
            accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
    with bound_listener(port=listener.port) as again:
        again.start(accepted.append)
        with clients(again.port, 1):
            await accepted.wait_for(1)


async def test_connections_wait_while_the_listener_is_paused(accepted):
    with bound_listener() as listener:
        listener.start(accepted.append)
        listener.pause()
        with clients(listener.port, 3):
            await asyncio.sleep(0.1)
            assert not accepted
            listener.resume()
            await accepted.wait_for(3)


async def test_a_callback_can_pause_the_listener_at_once(accepted):
    def give(connection: socket.socket) -> None:
        accepted.append(connection)
        listener.pause()

    with bound_listener() as listener:
        listener.start(give)
        with clients(listener.port, 3):
            for count in (1, 2, 3):
                await accepted.wait_for(count)
                await asyncio.sleep(0.05)
                assert len(accepted) == count
                listener.resume()


async def test_close_accepts_the_connections_of_the_backlog_and_refuses_later_ones(accepted):
    with bound_listener() as listener:
        listener.start(accepted.append)
        with clients(listener.port, 100):
            assert not accepted  # the event loop has not run
            listener.close()
            assert len(accepted) == 100
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", listener.port))


@contextmanager
def no_free_descriptors() -> Iterator[None]:
    """Let this process open no file descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))  # the system assigns the lowest free number
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(lowest)


async def test_connections_wait_while_no_file_descriptor_is_free(accepted, caplog):
    with bound_listener() as listener:
        listener.start(accepted.append)
        with clients(listener.port, 2):
            with no_free_descriptors():
                await asyncio.sleep(0.1)
            assert not accepted
            assert "accept failed (Too many open files)" in caplog.text
            await accepted.wait_for(2)


async def test_a_host_name_is_bound_at_each_of_its_addresses(accepted):
    with bound_listener("localhost") as listener:
        listener.start(accepted.append)
        hosts = {address[0] for *_, address in socket.getaddrinfo("localhost", listener.port, type=socket.SOCK_STREAM)}
        sockets = [socket.create_connection((host, listener.port)) for host in hosts]
        await accepted.wait_for(len(hosts))
        for client in sockets:
            client.close()


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", "localhost")]
)
def test_the_address_can_be_opened_on_this_machine(host, shown):
    with bound_listener(host) as listener:
        assert listener.address == f"http://{shown}:{listener.port}"


def test_an_empty_host_is_rejected():
    with pytest.raises(UserError, match="host: expected an address of this machine or a name for one, got ''"):
        Listener("", 0)
