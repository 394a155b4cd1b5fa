"""Threads that compute beside the one that asks run on any core but his."""

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from app.runtimes.onnx_graph import INPUT, onnx_model
from app.runtimes.sessions import session
from app.runtimes.thread_affinity import PinnedSession
from tests.support.models import COLOUR, build

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have numbers and cores on Linux")
PICTURE = {INPUT: np.ones((1, *COLOUR.image_shape), np.float32)}


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """All that this process may use; the thread may be kept to some of them in the meantime."""
    all_of_them = os.sched_getaffinity(0)
    yield sorted(all_of_them)
    os.sched_setaffinity(0, all_of_them)


@pytest.fixture(scope="module")
def graph() -> ModelProto:
    return onnx_model(build(COLOUR).encoder.network, COLOUR.image_shape)


@pytest.fixture
def helped(graph) -> PinnedSession:
    return session(graph, 2)


def places(helped: PinnedSession) -> list[set[int]]:
    return [os.sched_getaffinity(helper) for helper in helped.helpers]


def test_whoever_asks_has_his_core_for_himself(helped, cores):
    for own in (*cores, *cores):
        os.sched_setaffinity(0, {own})
        helped.run(None, PICTURE)
        assert places(helped) == [{*cores} - {own} or {own}]


def test_whoever_asks_stays_where_he_was(helped, cores):
    helped.run(None, PICTURE)
    assert os.sched_getaffinity(0) == {*cores}


def test_the_answer_is_what_it_is_without_help(helped, graph):
    (alone,), (answer,) = (it.run(None, PICTURE) for it in (session(graph, 1), helped))
    np.testing.assert_array_equal(answer, alone)


def test_helpers_who_are_gone_spoil_no_answer(graph):
    end = threading.Event()
    helper = threading.Thread(target=end.wait, daemon=True)

    def start() -> Any:
        helper.start()
        return session(graph, 1)

    helped = PinnedSession(start)
    end.set()
    helper.join()
    assert len(helped.helpers) == 1
    assert helped.run(None, PICTURE)


def test_one_core_alone_is_shared(cores, graph):
    os.sched_setaffinity(0, {cores[0]})
    helped = session(graph, 2)
    assert helped.run(None, PICTURE)
    assert places(helped) == [{cores[0]}]


def test_other_threads_are_left_alone(cores, graph):
    end = threading.Event()
    other = threading.Thread(target=end.wait, daemon=True)
    other.start()
    session(graph, 2).run(None, PICTURE)
    assert os.sched_getaffinity(other.native_id) == {*cores}
    end.set()
