"""The start of `vae serve`: signals, standard files, a folder without a model, and the log."""

import asyncio
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.apps import until
from tests.support.live_server import POLL_SECONDS, ROOT, python

pytestmark = pytest.mark.anyio

VAE = "from app.__main__ import main; main()"
WITHOUT_TORCH = f"import sys; sys.path.insert(0, sys.argv.pop(1)); {VAE}"


def words(model: Path, workers: int = 1) -> list[str]:
    return ["serve", str(model), "--device", "cpu", "--threads", "1", "--port", "0", f"--workers={workers}"]


def caught(pid: int, kind: str, number: int) -> bool:
    """Whether a signal is in a mask of a process: SigBlk, SigIgn or SigCgt of /proc."""
    mask = re.findall(rf"{kind}:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(mask and int(mask[0], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_signal_during_the_start_exits_with_0(digits_model, workers, number):
    process = await python("-c", VAE, *words(digits_model, workers))
    await until(lambda: caught(process.pid, "SigCgt", signal.SIGTERM))
    process.send_signal(number)
    _, log = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in log


async def test_sighup_during_the_start_causes_one_reload_at_most(digits_model):
    process = await python("-c", VAE, *words(digits_model))
    await until(lambda: caught(process.pid, "SigBlk", signal.SIGHUP))
    for _ in range(10):
        process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(60):
        while b'"open http' not in (line := await process.stderr.readline()):
            assert line, "it has ended"
    process.send_signal(signal.SIGTERM)
    _, rest = await process.communicate()
    assert process.returncode == 0
    assert rest.count(b'"reloaded: ') <= 1


def port_of(pid: int) -> int:
    """The port on which a process listens, 0 before it does."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return int(fields[1].partition(":")[2], 16)
    return 0


def standard_files(pid: int) -> set[str]:
    """The files that are stdin, stdout and stderr of a process."""
    return {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in range(3)}


async def test_a_process_started_without_standard_files_serves_and_exits_with_0(digits_model):
    command = 'exec "$@" <&- >&- 2>&-'
    arguments = [sys.executable, "-c", VAE, *words(digits_model)]
    process = await asyncio.create_subprocess_exec("sh", "-c", command, "sh", *arguments, cwd=ROOT)
    await until(lambda: port_of(process.pid) > 0, POLL_SECONDS)
    assert standard_files(process.pid) == {os.devnull}
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(process.pid)}") as client:
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(POLL_SECONDS)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def _no_folder(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"{folder}: no such folder; expected a model folder with config.json and model.safetensors"


def _no_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return f"{folder}/model.safetensors: No such file or directory"


def _a_pipe(folder: Path) -> str:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    return f"{folder}/config.json: expected a regular file"


def _a_device(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    return f"{folder}/model.safetensors: expected a regular file"


def _no_object(folder: Path) -> str:
    (folder / "config.json").write_text("[]")
    return f"{folder}/config.json: expected an object, got list"


def _truncated_weights(folder: Path) -> str:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])
    return f"{folder}/model.safetensors: not a complete safetensors file, {len(content) - 1} bytes"


def _other_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"\x04" + bytes(7) + b"{}[]")
    return f"{folder}/model.safetensors: not a complete safetensors file, 12 bytes"


FAULTS = [_no_folder, _no_weights, _a_pipe, _a_device, _no_object, _truncated_weights, _other_weights]


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_a_folder_without_a_model_is_reported_in_one_line_before_torch_is_loaded(
    digits_model, tmp_path, spoil: Callable[[Path], str]
):
    shutil.copytree(digits_model, tmp_path / "model")
    (tmp_path / "torch.py").write_text("raise SystemExit(7)")  # a process that imports torch exits
    message = spoil(tmp_path / "model")
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path), *words(tmp_path / "model", 2)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, f"vae: {message}\n")


async def test_on_a_terminal_the_log_is_text_and_has_the_address_to_open_once(digits_model):
    terminal, its = pty.openpty()
    command = [sys.executable, "-c", VAE, *words(digits_model, 2)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=its)
    os.close(its)
    log = b""
    while b"open http" not in log:
        log += await asyncio.to_thread(os.read, terminal, 65_536)
    process.send_signal(signal.SIGTERM)
    with suppress(OSError):  # the last process has closed the terminal
        while more := await asyncio.to_thread(os.read, terminal, 65_536):
            log += more
    assert await process.wait() == 0
    lines = log.decode().splitlines()
    assert not [line for line in lines if line.startswith("{")]
    (last,) = [line for line in lines if "  open http" in line]
    assert re.search(r" INFO +app\.[\w.]+  open http://127\.0\.0\.1:\d+$", last)
    assert "draining" in "".join(lines[lines.index(last) + 1 :])  # the second worker may log its start in between
