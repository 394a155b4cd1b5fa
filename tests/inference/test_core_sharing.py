"""Workers see of each other who computes, also from process to process."""

from multiprocessing import get_context

import pytest

from app.inference.core_sharing import CoreUsage, places


def compute(shared, own, begun, end):
    with CoreUsage(shared, own).computing():
        begun.set()
        end.wait()


def test_a_worker_that_computes_is_seen_by_those_in_other_processes():
    spawn = get_context("spawn")
    shared, begun, end = places(2), spawn.Event(), spawn.Event()
    one = CoreUsage(shared, 0)
    other = spawn.Process(target=compute, args=(shared, 1, begun, end))
    assert one.idle
    other.start()
    begun.wait()
    assert not one.idle
    end.set()
    other.join()
    assert one.idle


def test_nobody_is_his_own_neighbour():
    shared = places(3)
    workers = [CoreUsage(shared, own) for own in range(3)]
    with workers[1].computing():
        assert [worker.idle for worker in workers] == [False, True, False]


def test_who_fails_at_work_computes_no_more():
    one, other = (CoreUsage(shared, own) for shared in [places(2)] for own in range(2))
    with pytest.raises(RuntimeError), one.computing():
        raise RuntimeError
    assert other.idle


def test_who_takes_the_place_of_one_who_died_at_work_begins_idle():
    shared = places(2)
    shared[1] = 1
    one = CoreUsage(shared, 0)
    assert not one.idle
    CoreUsage(shared, 1)
    assert one.idle
