"""Workers see in shared memory which others compute."""

from multiprocessing import get_context

import pytest

from app.inference.core_sharing import CoreUsage, shared_slots


def compute(shared, own, begun, end):
    with CoreUsage(shared, own):
        begun.set()
        end.wait()


def test_other_processes_see_a_worker_that_computes():
    spawn = get_context("spawn")
    shared, begun, end = shared_slots(2), spawn.Event(), spawn.Event()
    one = CoreUsage(shared, 0)
    other = spawn.Process(target=compute, args=(shared, 1, begun, end))
    assert one.others_idle
    other.start()
    begun.wait()
    assert not one.others_idle
    end.set()
    other.join()
    assert one.others_idle


def test_a_worker_does_not_count_itself():
    shared = shared_slots(3)
    workers = [CoreUsage(shared, own) for own in range(3)]
    with workers[1]:
        assert [worker.others_idle for worker in workers] == [False, True, False]


def test_a_worker_is_idle_after_an_error():
    one, other = (CoreUsage(shared, own) for shared in [shared_slots(2)] for own in range(2))
    with pytest.raises(RuntimeError), one:
        raise RuntimeError
    assert other.others_idle


def test_a_worker_that_replaces_a_killed_one_starts_idle():
    shared = shared_slots(2)
    shared[1] = 1
    one = CoreUsage(shared, 0)
    assert not one.others_idle
    CoreUsage(shared, 1)
    assert one.others_idle
