"""How many processes serve where nobody says: as many as the cores can feed, and one where there is a GPU."""

import pytest

from app.machine import MOST, cores, has_gpu, resolve, threads
from app.settings import Settings


def test_on_a_cpu_each_core_has_its_worker_up_to_a_few():
    assert resolve(Settings(device="cpu")).workers == min(MOST, cores())


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_has_one_worker(device):
    assert resolve(Settings(device=device)).workers == 1


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


def test_a_hidden_gpu_is_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_gpu()
