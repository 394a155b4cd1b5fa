"""Two real workers on one port are one service: its answers, its counts, its reloads and its end."""

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from operator import itemgetter
from pathlib import Path

import httpx
import pytest

from app.server.supervisor import SupervisionPolicy
from model.checkpoint import read_checkpoint, write_checkpoint
from tests.support.apps import until
from tests.support.live_server import python, warnings_of
from tests.support.models import DIGITS, build, write
from tests.support.two_workers import KEY, WORKERS, Two, exists, rest, sockets, two

pytestmark = pytest.mark.anyio

IMPATIENT = WORKERS.replace("serve(settings)", "serve(settings, SupervisionPolicy(heartbeat_timeout=2))")


@pytest.fixture(scope="module")
async def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("workers") / "served", DIGITS)


@pytest.fixture(scope="module")
async def it(folder) -> AsyncIterator[Two]:
    async for service in two(folder):
        yield service


def put(folder: Path, seed: int) -> str:
    write_checkpoint(folder, DIGITS, build(DIGITS, seed).state_dict())
    return read_checkpoint(folder).identity


async def test_both_give_a_seed_the_same_bytes_and_whoever_is_asked_tells_what_both_have_counted(it):
    before = await it.count("vae_requests_total", endpoint="/sample")
    answers = await it.ask_all(*["/sample?n=2&seed=3"] * 40)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    for _ in range(8):
        assert await it.count("vae_requests_total", endpoint="/sample", status="200") == before + 40
        assert await it.count("vae_request_duration_seconds_count", endpoint="/sample") == before + 40
        assert await it.count("vae_queue_items") == 0
        assert (await it.count("vae_ready"), await it.count("vae_model_info")) == (1, 1)


async def test_the_memory_of_all_processes_is_told(it):
    def resident(pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    together = sum(map(resident, (it.process.pid, *it.pids())))
    assert 0.9 * together < await it.count("process_resident_memory_bytes") < 1.1 * together + 2**25


async def test_what_is_counted_is_told_while_another_worker_opens_its_files(it):
    opened = it.counts() / "counter_7.db"
    opened.touch()
    assert await it.count("vae_workers") == 2
    opened.unlink()


async def test_a_worker_that_is_killed_is_not_missed_and_another_takes_its_place(it):
    answered = await it.count("vae_requests_total")
    seconds = await it.count("process_cpu_seconds_total")
    victim = it.pids()[0]
    os.kill(victim, signal.SIGKILL)
    while exists(victim):  # noqa: ASYNC110  # another process sets no asyncio.Event; who comes while it dies is lost with it
        await asyncio.sleep(0.01)
    await it.are(1)
    answers = await it.ask_all(*["/sample?seed=3"] * 20)
    assert {answer.status_code for answer in answers} == {200}
    await it.replaces(victim)
    assert await it.count("vae_requests_total") == answered + 20
    assert await it.count("process_cpu_seconds_total") > seconds
    assert await it.count("vae_model_info") == 1


async def test_callers_who_stay_on_their_lines_are_shared_out_again_when_a_worker_has_none(it):
    async with AsyncExitStack() as stack:
        url = f"http://127.0.0.1:{it.port}"
        clients = [httpx.AsyncClient(base_url=url, headers=KEY, timeout=30) for _ in range(6)]
        callers = [await stack.enter_async_context(client) for client in clients]
        await asyncio.gather(*(caller.get("/model") for caller in callers))
        victim = it.pids()[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: not exists(victim))
        await asyncio.gather(*(caller.get("/model") for caller in callers), return_exceptions=True)  # lines are cut
        await asyncio.gather(*(caller.get("/model") for caller in callers))
        await it.replaces(victim)
        async with asyncio.timeout(20):
            while len({sockets(pid) for pid in it.pids()}) > 1:
                answers = await asyncio.gather(*(caller.get("/model") for caller in callers))
                assert {answer.status_code for answer in answers} == {200}
                await asyncio.sleep(0.1)
        await asyncio.sleep(
            3 * SupervisionPolicy().rebalance_interval
        )  # what was asked of one who had too many is taken back
        answers = await asyncio.gather(*(caller.get("/model") for caller in callers))
        assert {answer.headers.get("connection") for answer in answers} == {None}


async def test_sighup_reaches_every_worker(it, folder):
    model, reloads = put(folder, 1), await it.count("vae_reloads_total", outcome="success")
    it.process.send_signal(signal.SIGHUP)
    await it.all_serve(model)
    assert await it.count("vae_reloads_total", outcome="success") == reloads + 2
    assert await it.count("vae_model_info", model=model) == await it.count("vae_model_info") == 1


async def test_whom_a_reload_is_asked_of_answers_and_the_other_follows(it, folder):
    model = put(folder, 2)
    answer = await it.ask("/admin/reload", "POST")
    assert (answer.status_code, answer.headers["X-Model"]) == (200, model)
    await it.all_serve(model)


async def test_a_reload_that_fails_at_one_is_not_passed_on(it, folder):
    model, failed = (await it.ask("/model")).json()["model"], await it.count("vae_reloads_total", outcome="failed")
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"{}")
    assert (await it.ask("/admin/reload", "POST")).status_code == 409
    (folder / "config.json").write_bytes(config)
    assert await it.count("vae_reloads_total", outcome="failed") == failed + 1
    await it.all_serve(model)


async def test_what_was_accepted_by_all_in_like_measure_is_answered_when_they_are_told_to_end(digits_model):
    async for it in two(digits_model):
        await asyncio.sleep(0.3)  # they tell ten times a second whom they still have
        inside = [await it.half_a_request() for _ in range(12)]
        for pid in (it.process.pid, *it.pids()):
            os.kill(pid, signal.SIGTERM)
        await it.are(0)
        assert (await it.ask("/sample")).status_code == 503
        assert {await rest(*half) for half in inside} == {b"HTTP/1.1 200 OK\r\n"}
        assert await it.ended() == 0
        log = [json.loads(line) for line in (await it.log).splitlines()]
        assert not [line for line in log if line["level"] not in ("INFO", "DEBUG")]
        answered = Counter(line["worker"] for line in log if line["message"] == "POST /decode 200")
        assert sum(answered.values()) == 12
        assert max(answered.values()) <= 7


async def test_who_comes_after_a_crowd_has_gone_is_not_given_to_one_worker_alone(digits_model):
    async for it in two(digits_model):
        for moment in range(16):
            crowd = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(16)]
            for _, writer in crowd:
                writer.close()
            await asyncio.sleep(0.06 + 0.0025 * moment)  # each of them tells every 0.1 s anyway, at moments of its own
            for half in [await it.half_a_request() for _ in range(4)]:
                assert await rest(*half) == b"HTTP/1.1 200 OK\r\n"
        it.process.send_signal(signal.SIGTERM)
        await it.ended()
        log = sorted((json.loads(line) for line in (await it.log).splitlines()), key=itemgetter("time"))
        workers = [line["worker"] for line in log if line["message"] == "POST /decode 200"]
        assert [len({*workers[n : n + 4]}) for n in range(0, len(workers), 4)] == [2] * 16


async def test_at_a_second_signal_all_leave_at_once_and_the_exit_code_tells_that_some_were_cut(digits_model):
    async for it in two(digits_model, graceful_timeout_s=600, request_timeout_s=600):
        inside = [await it.half_a_request() for _ in range(4)]
        it.process.send_signal(signal.SIGINT)
        await it.are(0)
        it.process.send_signal(signal.SIGINT)
        assert await it.ended() == 1
        for reader, writer in inside:
            assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
            writer.close()
        lines = [re.fullmatch(r"shutdown timeout: cancelled (\d+) requests", line) for line in await warnings_of(it)]
        assert sum(int(line[1]) for line in lines) == len(inside)


async def test_workers_whose_parent_is_killed_finish_what_they_accepted_and_end(digits_model):
    async for it in two(digits_model):
        inside = [await it.half_a_request() for _ in range(4)]
        it.process.kill()
        while line := await it.line():
            line[1].close()
        assert {await rest(*half) for half in inside} == {b"HTTP/1.1 200 OK\r\n"}
        assert await it.ended() == -signal.SIGKILL
        assert b"POST /decode 200" in await it.log  # it ends with the last who could write to it


async def test_who_comes_until_the_end_is_refused_by_an_answer_or_finds_nobody(digits_model):
    async for it in two(digits_model):
        inside = [await it.half_a_request() for _ in range(4)]
        it.process.send_signal(signal.SIGTERM)
        await it.are(0)
        newcomers = asyncio.gather(*(it.until_refused() for _ in range(8)))
        await asyncio.sleep(0.5)
        assert {await rest(*half) for half in inside} == {b"HTTP/1.1 200 OK\r\n"}
        assert set().union(*await newcomers) == {b"HTTP/1.1 503 Service Unavailable\r\n"}
        assert await it.ended() == 0


async def test_who_comes_while_no_worker_lives_waits_for_the_next(it):
    victims = it.pids()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    while any(map(exists, victims)):  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.01)
    assert (await it.ask("/sample?n=1")).status_code == 200
    await it.replaces(*victims)


async def test_a_worker_that_is_stuck_is_ended_and_another_takes_its_place(digits_model):
    async for it in two(digits_model, program=IMPATIENT):
        victim = it.pids()[0]
        os.kill(victim, signal.SIGSTOP)
        await it.replaces(victim)
        it.process.send_signal(signal.SIGTERM)
        assert await it.ended() == 0
        assert b"no heartbeat for 2 s, killing it" in await it.log


async def test_a_service_whose_workers_never_get_warm_ends_and_says_so(digits_model, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit(7)")  # the parent gets on without torch, no worker does
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from app.cli import main; main()"
    options = ("--model", str(digits_model), "--port", "0", "--workers", "2", "--log-format", "text")
    process = await python("-c", code, "serve", *options)
    _, told = await process.communicate()
    assert process.returncode == 2
    assert told.splitlines()[-1] == b"vae: a worker exited 3 times before it was ready, with exit code 7"


async def test_a_port_that_is_taken_is_told_in_one_line(it, folder):
    options = ("--model", str(folder), "--port", str(it.port), "--workers", "2")
    process = await python("-c", "from app.cli import main; main()", "serve", *options)
    _, told = await process.communicate()
    assert process.returncode == 2
    assert told == b"vae: 127.0.0.1 port %d: Address already in use\n" % it.port
