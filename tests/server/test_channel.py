"""A channel of messages between two processes: none is lost while the socket is full, and the outbox is bounded."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from app.server.channel import Channel

pytestmark = pytest.mark.anyio


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    near, far = (Channel(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    yield near, far
    near.close()
    far.close()


async def received(channel: Channel, last: str) -> list[str]:
    messages = []
    async with asyncio.timeout(10):
        while (message := await channel.receive()) != last:
            messages.append(message)
    return messages


async def test_messages_arrive_in_their_order(ends):
    near, far = ends
    for word in ("warm", "inside 1 1", "draining", "done"):
        near.send(word)
    assert await received(far, "done") == ["warm", "inside 1 1", "draining"]


async def test_messages_that_found_the_socket_full_arrive_once_it_has_room(ends):
    near, far = ends
    for number in range(5_000):
        near.send(f"inside {number} 0")
    for word in ("reloaded", "draining", "inside 7 7", "done"):
        near.send(word)
    messages = await received(far, "done")
    assert messages[-3:] == ["inside 7 7", "reloaded", "draining"]
    assert len(messages) < 1_000  # of the states that were not sent the last one alone is kept
    near.send("inside 8 8")
    assert await far.receive() == "inside 8 8"


async def test_both_directions_can_be_full_at_once(ends):
    for channel in ends:
        for number in range(2_000):
            channel.send(f"inside {number} 0")
        channel.send("done")
    for channel in ends:
        assert (await received(channel, "done"))[-1] == "inside 1999 0"


async def test_the_end_of_the_other_side_is_an_empty_message_and_sending_to_it_is_no_error(ends):
    near, far = ends
    far.send("failed by that")
    far.close()
    assert await near.receive() == "failed by that"
    assert await near.receive() == ""
    near.send("drain")
