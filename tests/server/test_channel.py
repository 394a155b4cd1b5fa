"""The message channel between two processes: no message is lost while the socket is full, and the outbox is bounded."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from app.server.channel import Channel
from app.server.messages import Drain, Drained, Draining, Heartbeat, Message, ModelReloaded, Ready, StartFailed

pytestmark = pytest.mark.anyio


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    near, far = (Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield near, far
    near.close()
    far.close()


async def received_before(channel: Channel, last: Message) -> list[Message | None]:
    messages = []
    async with asyncio.timeout(10):
        while (message := await channel.receive()) != last:
            messages.append(message)
    return messages


async def test_messages_arrive_in_order(ends):
    near, far = ends
    for message in (Ready(), Heartbeat(1, 1), Draining(), Drained()):
        near.send(message)
    assert await received_before(far, Drained()) == [Ready(), Heartbeat(1, 1), Draining()]


async def test_messages_sent_while_the_socket_is_full_arrive_once_it_is_writable(ends):
    near, far = ends
    for number in range(5_000):
        near.send(Heartbeat(number, 0))
    for message in (ModelReloaded(), Draining(), Heartbeat(7, 7), Drained()):
        near.send(message)
    messages = await received_before(far, Drained())
    assert messages[-3:] == [Heartbeat(7, 7), ModelReloaded(), Draining()]
    assert len(messages) < 1_000  # only the newest waiting message of each type is kept
    near.send(Heartbeat(8, 8))
    assert await far.receive() == Heartbeat(8, 8)


async def test_both_directions_can_be_full_at_the_same_time(ends):
    for channel in ends:
        for number in range(2_000):
            channel.send(Heartbeat(number, 0))
        channel.send(Drained())
    for channel in ends:
        assert (await received_before(channel, Drained()))[-1] == Heartbeat(1999, 0)


async def test_receive_returns_none_once_the_other_end_is_closed_and_send_does_not_fail(ends):
    near, far = ends
    far.send(StartFailed("no memory"))
    far.close()
    assert await near.receive() == StartFailed("no memory")
    assert await near.receive() is None
    near.send(Drain())
