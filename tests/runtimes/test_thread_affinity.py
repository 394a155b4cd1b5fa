"""Worker threads of ONNX Runtime run on any core but that of the calling thread."""

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from app.runtimes.onnx_export import INPUT, onnx_model
from app.runtimes.onnx_session import create_session
from app.runtimes.thread_affinity import PinnedSession
from tests.support.models import COLOUR, build

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have numbers and cores on Linux")
IMAGE = {INPUT: np.ones((1, *COLOUR.image_shape), np.float32)}


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """The cores that this process may use; a test may restrict its thread to some of them."""
    all_of_them = os.sched_getaffinity(0)
    yield sorted(all_of_them)
    os.sched_setaffinity(0, all_of_them)


@pytest.fixture(scope="module")
def graph() -> ModelProto:
    return onnx_model(build(COLOUR).encoder.network, COLOUR.image_shape)


@pytest.fixture
def pinned(graph) -> PinnedSession:
    return create_session(graph, 2)


def affinities(pinned: PinnedSession) -> list[set[int]]:
    return [os.sched_getaffinity(thread) for thread in pinned.worker_threads]


def test_worker_threads_leave_the_core_of_the_calling_thread(pinned, cores):
    for own in (*cores, *cores):
        os.sched_setaffinity(0, {own})
        pinned.run(None, IMAGE)
        assert affinities(pinned) == [{*cores} - {own} or {own}]


def test_the_affinity_of_the_calling_thread_does_not_change(pinned, cores):
    pinned.run(None, IMAGE)
    assert os.sched_getaffinity(0) == {*cores}


def test_the_result_is_that_of_one_thread(pinned, graph):
    (expected,), (result,) = (it.run(None, IMAGE) for it in (create_session(graph, 1), pinned))
    np.testing.assert_array_equal(result, expected)


def test_worker_threads_that_have_ended_are_ignored(graph):
    end = threading.Event()
    thread = threading.Thread(target=end.wait, daemon=True)

    def start() -> Any:
        thread.start()
        return create_session(graph, 1)

    pinned = PinnedSession(start)
    end.set()
    thread.join()
    assert len(pinned.worker_threads) == 1
    assert pinned.run(None, IMAGE)


def test_a_single_core_is_shared(cores, graph):
    os.sched_setaffinity(0, {cores[0]})
    pinned = create_session(graph, 2)
    assert pinned.run(None, IMAGE)
    assert affinities(pinned) == [{cores[0]}]


def test_the_affinity_of_other_threads_does_not_change(cores, graph):
    end = threading.Event()
    other = threading.Thread(target=end.wait, daemon=True)
    other.start()
    create_session(graph, 2).run(None, IMAGE)
    assert os.sched_getaffinity(other.native_id) == {*cores}
    end.set()
