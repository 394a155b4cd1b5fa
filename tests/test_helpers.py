"""Threads that compute beside the one that asks run on any core but his."""

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import COLOUR, build

from app.graph import INPUT, onnx_model
from app.helpers import Helped
from app.sessions import session

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="threads have numbers and cores on Linux"),
    pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="there is one core"),
]
GRAPH = onnx_model(build(COLOUR).encoder.network, COLOUR.image_shape)
PICTURE = {INPUT: np.ones((1, *COLOUR.image_shape), np.float32)}


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """All that this process may use; the thread may be kept to some of them in the meantime."""
    all_of_them = os.sched_getaffinity(0)
    yield sorted(all_of_them)
    os.sched_setaffinity(0, all_of_them)


@pytest.fixture
def helped() -> Helped:
    return session(GRAPH, 2)


def places(helped: Helped) -> list[set[int]]:
    return [os.sched_getaffinity(helper) for helper in helped.helpers]


def test_whoever_asks_has_his_core_for_himself(helped, cores):
    for own in (*cores, *cores):
        os.sched_setaffinity(0, {own})
        helped.run(None, PICTURE)
        assert places(helped) == [{*cores} - {own}]


def test_whoever_asks_stays_where_he_was(helped, cores):
    helped.run(None, PICTURE)
    assert os.sched_getaffinity(0) == {*cores}


def test_the_answer_is_what_it_is_without_help(helped):
    (alone,), (answer,) = (it.run(None, PICTURE) for it in (session(GRAPH, 1), helped))
    np.testing.assert_array_equal(answer, alone)


def test_helpers_who_are_gone_spoil_no_answer():
    end = threading.Event()
    helper = threading.Thread(target=end.wait)

    def start() -> Any:
        helper.start()
        return session(GRAPH, 1)

    helped = Helped(start)
    end.set()
    helper.join()
    assert len(helped.helpers) == 1
    assert helped.run(None, PICTURE)


def test_one_core_alone_is_shared(cores):
    os.sched_setaffinity(0, {cores[0]})
    helped = session(GRAPH, 2)
    assert helped.run(None, PICTURE)
    assert places(helped) == [{cores[0]}]


def test_other_threads_are_left_alone(cores):
    other = threading.Event()
    beside = threading.Thread(target=other.wait)
    beside.start()
    session(GRAPH, 2).run(None, PICTURE)
    assert os.sched_getaffinity(beside.native_id or 0) == {*cores}
    other.set()
    beside.join()
