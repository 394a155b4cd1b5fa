"""The wire form of messages between the supervisor and its workers."""

from typing import get_args

import pytest

from app.server.messages import MAX_MESSAGE_BYTES, Heartbeat, Message, ShedConnections, StartFailed, parse, serialize

FIELDS = {StartFailed: ("cannot read 'café'\n",), Heartbeat: (5, 7), ShedConnections: (2,)}


@pytest.mark.parametrize("kind", get_args(Message), ids=lambda kind: kind.__name__)
def test_each_message_is_parsed_from_its_wire_form(kind):
    message = kind(*FIELDS.get(kind, ()))
    assert parse(serialize(message)) == message
    assert len(serialize(message)) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize("data", [b"", b"null", b'["Unknown"]', b'["Heartbeat", 1]'])
def test_data_that_is_no_message_is_rejected(data):
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse(data)
