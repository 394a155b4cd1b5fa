"""A port is held from the start and kept from strangers; whoever comes to it is given away, or waits, or is refused."""

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
def reception(host: str = "127.0.0.1", port: int = 0) -> Iterator[Listener]:
    held = Listener(host, port)
    try:
        yield held
    finally:
        held.close()


@contextmanager
def callers(port: int, count: int) -> Iterator[list[socket.socket]]:
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    yield lines
    for line in lines:
        line.close()


class Given(list[socket.socket]):
    """The connections that were given away; `come` waits until they are so many."""

    async def come(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self) < count:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        while self:
            self.pop().close()


@pytest.fixture
def given() -> Iterator[Given]:
    connections = Given()
    yield connections
    connections.close()


async def test_all_who_come_are_given_away_each_once(given):
    with reception() as held:
        held.start(given.append)
        with callers(held.port, 200) as lines:
            await given.come(200)
            assert {line.getsockname() for line in lines} == {connection.getpeername() for connection in given}
            assert len(given) == 200


def test_a_port_that_is_only_held_takes_no_connection():
    with reception() as held, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", held.port))


@pytest.mark.parametrize("listening", [False, True])
async def test_nobody_takes_a_port_that_another_holds(given, listening):
    with reception() as held:
        if listening:
            held.start(given.append)
        with pytest.raises(UserError, match=f"127.0.0.1 port {held.port}: Address already in use"):
            Listener("127.0.0.1", held.port)


def test_a_port_that_a_stranger_has_cannot_be_held():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match="Address already in use"):
            Listener("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "no.such.invalid", "x" * 70])
def test_a_host_that_is_none_is_told(host):
    with pytest.raises(UserError, match=f"host: expected an address of this machine or a name for one, got '{host}'"):
        Listener(host, 0)


async def test_what_is_left_of_closed_connections_does_not_keep_a_port(given):
    with reception() as held:
        held.start(given.append)
        with callers(held.port, 1):
            await given.come(1)
            given.close()  # who closes first is left with what the network may still bring
    with reception(port=held.port) as again:
        again.start(given.append)
        with callers(again.port, 1):
            await given.come(1)


async def test_while_it_is_held_back_those_who_come_wait(given):
    with reception() as held:
        held.start(given.append)
        held.pause()
        with callers(held.port, 3):
            await asyncio.sleep(0.1)
            assert not given
            held.resume()
            await given.come(3)


async def test_it_is_held_back_at_once_by_whoever_can_take_no_more(given):
    def give(connection: socket.socket) -> None:
        given.append(connection)
        held.pause()

    with reception() as held:
        held.start(give)
        with callers(held.port, 3):
            for count in (1, 2, 3):
                await given.come(count)
                await asyncio.sleep(0.05)
                assert len(given) == count
                held.resume()


async def test_who_has_come_when_it_closes_is_given_away_and_the_next_refused(given):
    with reception() as held:
        held.start(given.append)
        with callers(held.port, 100):
            assert not given  # the event loop had no turn
            held.close()
            assert len(given) == 100
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", held.port))


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))  # the system gives the lowest number that is free
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(lowest)


async def test_where_no_more_files_may_be_opened_those_who_come_wait(given, caplog):
    with reception() as held:
        held.start(given.append)
        with callers(held.port, 2):
            with no_more_files():
                await asyncio.sleep(0.1)
            assert not given
            assert "accept failed (Too many open files)" in caplog.text
            await given.come(2)


async def test_a_name_is_held_at_each_of_its_addresses(given):
    with reception("localhost") as held:
        held.start(given.append)
        hosts = {address[0] for *_, address in socket.getaddrinfo("localhost", held.port, type=socket.SOCK_STREAM)}
        lines = [socket.create_connection((host, held.port)) for host in hosts]
        await given.come(len(hosts))
        for line in lines:
            line.close()


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", "localhost")]
)
def test_the_address_to_open_is_one_that_works_on_this_machine(host, shown):
    with reception(host) as held:
        assert held.address == f"http://{shown}:{held.port}"


def test_no_host_is_not_all_hosts():
    with pytest.raises(UserError, match="host: expected an address of this machine or a name for one, got ''"):
        Listener("", 0)
