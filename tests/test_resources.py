"""How many processes serve where nobody says: as many as there are cores, up to a few, also of one GPU."""

import asyncio
import threading
import time

import pytest

from app.resources import MOST, codec_threads, cores, largest_batch, resolve, threads
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


@pytest.mark.parametrize("workers", [0, 1, 2, 64])
def test_pictures_are_read_by_a_share_of_the_cores_and_a_large_one_leaves_a_way(workers):
    assert codec_threads(Settings(workers=workers)) == max(2, cores() // (workers or 1))


@pytest.mark.anyio
async def test_no_more_are_read_at_once(serve):
    def read() -> str:
        time.sleep(0.01)
        return threading.current_thread().name

    async with serve():
        readers = set(await asyncio.gather(*(asyncio.to_thread(read) for _ in range(10 * cores() + 20))))
        assert len(readers) == codec_threads(Settings(workers=1))
        assert all(name.startswith("codec") for name in readers)
