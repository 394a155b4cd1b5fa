"""Memory of the process, and of the machine or its container, is read from Linux."""

import sys

import numpy as np
import pytest

from app.inference.memory import available, peak, reset_peak, resident, trim

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")

MIB = 2**20


def container(folder, limit: str, used: int, reclaimable: int):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 9\ninactive_file {reclaimable}\nactive_file 7\n")
    return folder


def test_a_container_has_the_memory_below_its_limit_and_what_the_kernel_can_reclaim(tmp_path):
    assert available(container(tmp_path, f"{400 * MIB}", 300 * MIB, 20 * MIB)) == 120 * MIB


def test_the_limit_of_a_control_group_of_version_1_is_read(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{400 * MIB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{300 * MIB}\n")
    (folder / "memory.stat").write_text(f"inactive_file {20 * MIB}\ntotal_inactive_file {20 * MIB}\n")
    assert available(tmp_path) == 120 * MIB
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert available(tmp_path) == pytest.approx(available(tmp_path / "none"), rel=0.5)


def test_a_container_over_its_limit_has_no_memory(tmp_path):
    assert available(container(tmp_path, f"{100 * MIB}", 300 * MIB, 20 * MIB)) == 0


def test_a_container_without_a_limit_has_the_memory_of_the_machine(tmp_path):
    unlimited = available(container(tmp_path, "max", 300 * MIB, 0))
    assert unlimited == pytest.approx(available(tmp_path / "none"), rel=0.5)
    assert 16 * MIB < unlimited < 2**50


def test_the_peak_includes_freed_memory_until_it_is_reset():
    reset_peak()
    before = peak()
    np.ones(64 * MIB, np.uint8)
    assert peak() >= before + 60 * MIB
    assert resident() < before + 60 * MIB
    reset_peak()
    assert peak() < before + 60 * MIB


def test_trimming_returns_fragmented_memory_to_the_system():
    pieces = [bytes(2**16) + b"1" for _ in range(1600)]
    held = resident()
    kept = pieces[::400]
    del pieces
    trim()
    assert len(kept) == 4
    assert resident() < held - 60 * MIB
