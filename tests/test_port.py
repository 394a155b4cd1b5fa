"""A reserved port is kept from strangers, and shared by those who listen beside its holder."""

import socket

import pytest

from app.port import ACCEPTED, own, reserved, share, widened


def test_those_who_share_a_reserved_port_are_all_heard():
    with reserved("127.0.0.1", 0) as port:
        sharing = [share("127.0.0.1", port)[0] for _ in range(3)]
        for one in sharing:
            one.listen()
        callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
        for one in (*callers, *sharing):
            one.close()


def test_a_port_that_is_only_reserved_takes_no_connection():
    with reserved("127.0.0.1", 0) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("listening", [False, True])
def test_nobody_reserves_a_port_that_another_has_reserved(listening):
    with reserved("127.0.0.1", 0) as port:
        (beside,) = share("127.0.0.1", port)
        if listening:
            beside.listen()
        with (
            pytest.raises(OSError, match=f"127.0.0.1 port {port}: Address already in use"),
            reserved("127.0.0.1", port),
        ):
            pass
        beside.close()


def test_a_port_that_somebody_has_cannot_be_reserved():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use"), reserved("127.0.0.1", port):
            pass


def test_a_port_is_free_again_when_its_holder_has_gone():
    with reserved("127.0.0.1", 0) as port:
        pass
    with reserved("127.0.0.1", port) as again:
        assert again == port


@pytest.mark.parametrize("listen", [own, share])
def test_what_is_left_of_closed_connections_does_not_keep_a_port(listen):
    with reserved("127.0.0.1", 0) as port:
        pass
    (listener,) = listen("127.0.0.1", port)
    listener.listen()
    caller = socket.create_connection(("127.0.0.1", port))
    accepted, _ = listener.accept()
    for one in (accepted, caller, listener):  # who closes first is left with what the network may still bring
        one.close()
    with reserved("127.0.0.1", port):
        pass
    for one in own("127.0.0.1", port):
        one.close()


def test_a_port_of_ones_own_is_shared_with_nobody():
    (mine,) = own("127.0.0.1", 0)
    with pytest.raises(OSError, match="Address already in use"):
        own("127.0.0.1", mine.getsockname()[1])
    mine.close()


def test_a_widened_socket_is_one_port_with_many_doors():
    (mine,) = own("127.0.0.1", 0)
    doors = widened([mine])
    callers = [socket.create_connection(mine.getsockname()) for _ in doors]
    accepted = [door.accept()[0] for door in doors]
    assert len({one.getpeername() for one in accepted}) == len(doors) == ACCEPTED
    for one in (*callers, *accepted, *doors):
        one.close()


def test_a_name_is_held_at_each_of_its_addresses():
    with reserved("localhost", 0) as port:
        for one in share("localhost", port):
            assert one.getsockname()[1] == port
            one.close()
