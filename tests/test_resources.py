"""The defaults of workers, batch size and threads follow the CPU cores and the device."""

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
def test_a_single_process_leaves_a_core_to_its_event_loop(workers):
    assert threads(Settings(workers=workers)) == max(1, available_cpus() - 1)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_given_number_of_threads_is_used(workers):
    assert threads(Settings(workers=workers, threads=7)) == 7


@pytest.mark.parametrize("workers", [0, 1, 2, 64])
def test_codec_threads_are_a_share_of_the_cores_and_one_that_large_images_leave_free(workers):
    assert codec_threads(Settings(workers=workers)) == max(1, available_cpus() // (workers or 1)) + 1


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "6400000", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_cpu_quota_of_a_container_is_read_in_both_versions_of_control_groups(tmp_path, files, cpus):
    without_quota = available_cpus(tmp_path / "none")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert available_cpus(tmp_path) == (cpus or without_quota)
