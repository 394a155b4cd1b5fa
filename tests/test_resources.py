"""The defaults of workers, batch size and threads follow the CPU cores and the device."""

import asyncio
import threading
import time

import pytest

from app.resources import MAX_DEFAULT_WORKERS, available_cpus, codec_threads, largest_batch, threads, with_worker_count
from app.settings import Settings


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_the_default_is_one_worker_per_core_up_to_a_limit(device):
    assert with_worker_count(Settings(device=device)).workers == min(MAX_DEFAULT_WORKERS, available_cpus())


@pytest.mark.parametrize(("setting", "cpu", "gpu"), [(0, 64, 256), (7, 7, 7)])
def test_the_largest_batch_is_the_setting_or_the_default_of_the_device(setting, cpu, gpu):
    settings = Settings(max_batch_size=setting)
    assert (largest_batch(settings, gpu=False), largest_batch(settings, gpu=True)) == (cpu, gpu)


def test_a_given_number_of_workers_is_kept():
    assert with_worker_count(Settings(device="cuda", workers=3)).workers == 3


def test_several_workers_share_the_cores():
    for workers in range(2, 65):
        share = threads(Settings(workers=workers))
        assert share == 1 or share * workers <= available_cpus()


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_leaves_a_core_to_its_event_loop(workers):
    assert threads(Settings(workers=workers)) == max(1, available_cpus() - 1)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_threads_that_are_asked_for_are_had(workers):
    assert threads(Settings(workers=workers, threads=7)) == 7


@pytest.mark.parametrize("workers", [0, 1, 2, 64])
def test_pictures_are_read_by_a_share_of_the_cores_and_a_large_one_leaves_a_way(workers):
    assert codec_threads(Settings(workers=workers)) == max(2, available_cpus() // (workers or 1))


@pytest.mark.anyio
async def test_no_more_are_read_at_once(serve):
    def read() -> str:
        time.sleep(0.01)
        return threading.current_thread().name

    async with serve():
        readers = set(await asyncio.gather(*(asyncio.to_thread(read) for _ in range(10 * available_cpus() + 20))))
        assert len(readers) == codec_threads(Settings(workers=1))
        assert all(name.startswith("codec") for name in readers)
