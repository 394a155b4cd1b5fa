"""How many processes serve where nobody says: as many as there are cores, up to a few, also of one GPU."""

import pytest

from app.machine import MOST, cores, largest_batch, resolve, threads
from app.settings import Settings


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_each_core_has_its_worker_up_to_a_few(device):
    assert resolve(Settings(device=device)).workers == min(MOST, cores())


@pytest.mark.parametrize(("asked", "cpu", "gpu"), [(0, 64, 256), (7, 7, 7)])
def test_a_batch_is_as_large_as_was_asked_for_or_as_the_device_likes(asked, cpu, gpu):
    settings = Settings(max_batch_size=asked)
    assert (largest_batch(settings, gpu=False), largest_batch(settings, gpu=True)) == (cpu, gpu)


def test_what_is_asked_for_is_started():
    assert resolve(Settings(device="cuda", workers=3)).workers == 3


def test_several_workers_share_the_cores():
    for workers in range(2, 65):
        share = threads(Settings(workers=workers))
        assert share == 1 or share * workers <= cores()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_leaves_a_core_to_its_event_loop(workers):
    assert threads(Settings(workers=workers)) == max(1, cores() - 1)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_threads_that_are_asked_for_are_had(workers):
    assert threads(Settings(workers=workers, threads=7)) == 7
