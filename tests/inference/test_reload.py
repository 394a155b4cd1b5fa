"""A reload replaces the model without interruption: each request is computed by the model that its response names."""

import asyncio
import json
import logging
import os
import threading
from functools import partial

import httpx
import numpy as np
import pytest
import torch

from app.codecs.images import write_npy
from app.errors import ReloadFailed
from app.inference.reload import ModelReloader
from app.main import create_app
from app.settings import Settings
from model.checkpoint import METRICS, read_checkpoint, write_checkpoint
from tests.support.apps import running, until
from tests.support.asgi_client import Caller
from tests.support.models import COLOUR, DIGITS, build

pytestmark = pytest.mark.anyio

KEY = {"Authorization": "Bearer key"}
LATENT = json.dumps({"latents": [[0.5, 0, -0.5, 0]]}).encode()


def put(folder, seed: int, config=DIGITS) -> str:
    write_checkpoint(folder, config, build(config, seed).state_dict())
    return read_checkpoint(folder).identity


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "served", 0)
    return tmp_path / "served"


@pytest.fixture
def app(folder, device):
    return create_app(Settings(model=folder, device=device, threads=1, api_key="key", max_batch_size=8))


async def reload(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/admin/reload", headers=KEY)


async def test_a_reload_requires_a_key_and_takes_no_body(folder, device, tmp_path):
    (tmp_path / "keys").write_text("key")
    app = create_app(Settings(model=folder, device=device, threads=1, api_key_file=tmp_path / "keys"))
    (tmp_path / "keys").unlink()
    async with running(app) as client:
        assert (await reload(client)).status_code == 200


async def test_a_reload_does_not_wait_for_codec_threads(app):
    read = threading.Event()
    async with running(app) as client, asyncio.timeout(30):
        threads = app.state.services.codec_threads
        readers = [threads.run(1, partial(read.wait, 60)) for _ in range(threads.threads)]
        pictures = asyncio.gather(*readers)
        await asyncio.sleep(0)
        assert (await reload(client)).status_code == 200
        assert not pictures.done()
        read.set()
        await pictures


async def test_a_reload_serves_the_current_content_of_the_folder(app, folder, caplog):
    caplog.set_level(logging.INFO)
    async with running(app) as client:
        old = (await client.get("/model", headers=KEY)).json()
        before = await client.post("/decode", content=LATENT, headers={**KEY, "content-type": "application/json"})
        new = put(folder, 1)
        answer = await reload(client)
        assert (answer.status_code, answer.json()["model"], answer.headers["X-Model"]) == (200, new, new)
        assert (await client.get("/model", headers=KEY)).json() == answer.json() != old
        after = await client.post("/decode", content=LATENT, headers={**KEY, "content-type": "application/json"})
        assert (before.headers["X-Model"], after.headers["X-Model"]) == (old["model"], new)
        assert before.content != after.content
        metrics = (await client.get("/metrics")).text
        assert 'vae_reloads_total{outcome="success"} 1.0' in metrics
        assert metrics.count("vae_model_info{") == 1
        assert f'model="{new}"' in metrics
        assert f"reloaded: {new} serves after {old['model']}" in caplog.messages


async def test_a_reload_over_http_is_forbidden_without_a_key_in_the_settings(serve):
    async with serve() as client:
        answer = await client.post("/admin/reload")
        assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
        assert "VAE_API_KEY" in answer.json()["detail"]
        assert "/admin/reload" not in (await client.get("/openapi.json")).json()["paths"]


async def test_a_reload_needs_the_key_and_the_method_post(app):
    async with running(app) as client:
        assert (await client.post("/admin/reload")).status_code == 401
        assert (await client.get("/admin/reload", headers=KEY)).status_code == 405
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"200", "401", "403", "409", "503"} <= paths["/admin/reload"]["post"]["responses"].keys()


def _truncated(folder) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def _gone(folder) -> None:
    (folder / "config.json").unlink()


def _of_another_architecture(folder) -> None:
    (folder / "config.json").write_text(json.dumps(COLOUR.as_dict()))


def _not_a_number(folder) -> None:
    weights = build(DIGITS, 1).state_dict()
    next(iter(weights.values())).fill_(torch.nan)
    write_checkpoint(folder, DIGITS, weights)


def _overflowing(folder) -> None:
    write_checkpoint(folder, DIGITS, {key: weight * 1e30 for key, weight in build(DIGITS, 1).state_dict().items()})


BAD = [_truncated, _gone, _of_another_architecture, _not_a_number, _overflowing]


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
async def test_a_folder_without_a_usable_model_changes_nothing(app, folder, spoil, caplog):
    async with running(app) as client:
        old = (await client.get("/model", headers=KEY)).json()
        spoil(folder)
        answer = await reload(client)
        assert (answer.status_code, answer.json()["title"]) == (409, "Not reloaded")
        assert answer.json()["detail"].endswith(f"; {old['model']} goes on serving")
        assert str(folder.parent) not in answer.text
        assert (await client.get("/model", headers=KEY)).json() == old
        assert (await client.get("/sample?n=2", headers=KEY)).status_code == 200
        assert 'vae_reloads_total{outcome="failed"} 1.0' in (await client.get("/metrics")).text
        assert [r.getMessage()[:12] for r in caplog.records if r.levelname == "ERROR"] == ["not reloaded"]
        new = put(folder, 1)
        assert (await reload(client)).json()["model"] == new


async def test_unusable_metrics_are_warnings_and_the_model_is_served(app, folder, device, caplog):
    reference = {"elbo": [float(n) for n in range(101)]}
    async with running(app) as client:
        (folder / METRICS).write_text(json.dumps({"evaluations": [{}], "reference": reference}))
        assert (await reload(client)).status_code == 200
        warning = "metrics.json: evaluations[0].images is missing; the entry is left out"
        assert [r.getMessage().partition("served/")[2] for r in caplog.records if r.levelname == "WARNING"] == [warning]
        assert app.state.services.engine.loaded_model.reference
        (folder / METRICS).write_text("{")
        assert (await reload(client)).status_code == 200
        assert "metrics.json: not JSON" in caplog.text
        assert not app.state.services.engine.loaded_model.reference
    caplog.clear()
    async with running(create_app(Settings(model=folder, device=device, threads=1))) as client:
        assert "percentile" not in (await client.get("/model")).json()["scores"]
    assert [r.levelname for r in caplog.records if "metrics.json: not JSON" in r.getMessage()] == ["WARNING"]


async def test_a_request_in_flight_is_answered_by_the_model_that_it_started_with(app, folder, digits):
    image = write_npy(digits[:1, 0])
    async with running(app) as client:
        old = app.state.services.engine.loaded_model.identity
        caller = Caller(app, "POST", "/encode", "application/x-npy", authorization="Bearer key")
        task = caller.task()
        caller.says(image[:50], more=True)
        await until(lambda: len(app.state.services.state.in_flight) == 1 and not caller.messages.qsize())
        new = put(folder, 1, COLOUR)  # images of another size, latents of another shape
        assert (await reload(client)).json()["image_shape"] == [3, 13, 9]
        caller.says(image[50:])
        await task
        answer = json.loads(caller.sent[1]["body"])
        assert (caller.status, answer["shape"], answer["model"]) == (200, [4], old)
        headers = {**KEY, "content-type": "application/x-npy"}
        other = (await client.post("/encode", content=image, headers=headers)).json()
        assert (other["shape"], other["model"]) == ([2, 4, 3], new)
        paths = (await client.get("/openapi.json")).json()["paths"]
        (latent,) = paths["/decode"]["post"]["requestBody"]["content"]["application/json"]["example"]["latents"]
        assert np.shape(latent) == (2, 4, 3)


async def test_under_load_every_response_is_computed_by_the_model_it_names_and_none_is_lost(app, folder, digits):
    image, headers = write_npy(digits[:3, 0]), {**KEY, "content-type": "application/x-npy"}
    seen: dict[str, list] = {}
    done = asyncio.Event()

    async def caller(client) -> int:
        count = 0
        while not done.is_set():
            answer = (await client.post("/encode", content=image, headers=headers)).json()
            seen.setdefault(answer["model"], []).append([latent["mean"] for latent in answer["latents"]])
            count += 1
        return count

    async with running(app) as client:
        callers = [asyncio.create_task(caller(client)) for _ in range(3)]
        models = [app.state.services.engine.loaded_model.identity]
        for seed in (1, 2, 3):
            await until(lambda: len(seen.get(models[-1], ())) > 20)
            models.append(put(folder, seed))
            assert (await reload(client)).status_code == 200
        await until(lambda: len(seen.get(models[-1], ())) > 20)
        done.set()
        assert sum(await asyncio.gather(*callers)) == sum(map(len, seen.values()))
    assert seen.keys() == set(models)
    for seed, model in enumerate(models):
        with torch.inference_mode():
            mean = build(DIGITS, seed).posterior(torch.from_numpy(digits[:3]).float() / 255).mean.numpy()
        np.testing.assert_allclose(seen[model], np.broadcast_to(mean, np.shape(seen[model])), atol=1e-4)


async def test_reloads_requested_during_another_are_merged(app, folder):
    async with running(app) as client:
        new = put(folder, 1)
        answers = await asyncio.gather(*(reload(client) for _ in range(30)))
        assert {(answer.status_code, answer.json()["model"]) for answer in answers} == {(200, new)}
        text = (await client.get("/metrics")).text
        assert any(f'vae_reloads_total{{outcome="success"}} {count}.0' in text for count in (1, 2))


async def test_all_requests_that_share_a_failed_reload_get_the_error(app, folder, caplog):
    async with running(app) as client:
        _gone(folder)
        answers = await asyncio.gather(*(reload(client) for _ in range(10)))
        assert {(answer.status_code, answer.json()["title"]) for answer in answers} == {(409, "Not reloaded")}
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) <= 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
async def test_a_pipe_or_a_device_instead_of_a_file_is_refused_at_once(app, folder, name):
    async with running(app) as client, asyncio.timeout(30):
        for put_there in (os.mkfifo, partial(os.symlink, "/dev/zero")):
            (folder / name).unlink()
            put_there(folder / name)
            answer = await reload(client)
            assert answer.status_code == 409
            assert f"{name}: expected a regular file" in answer.json()["detail"]


async def test_the_request_timeout_does_not_apply_to_a_reload(app, folder):
    async with running(app) as client:
        new = put(folder, 1)
        answer = await client.post("/admin/reload", headers={**KEY, "X-Request-Timeout": "0.001"})
        assert (answer.status_code, answer.headers["X-Model"]) == (200, new)


async def test_a_reload_completes_after_its_client_has_disconnected(app, folder):
    async with running(app):
        new = put(folder, 1)
        caller = Caller(app, "POST", "/admin/reload", authorization="Bearer key")
        caller.says(b"")
        task = caller.task()
        await until(lambda: len(app.state.services.state.in_flight) == 1)
        caller.leaves()
        await task
        await until(lambda: app.state.services.engine.loaded_model.identity == new)


async def test_the_end_of_a_connection_ends_its_request_for_a_reload_that_goes_on(app, folder):
    async with running(app):
        new, released = put(folder, 1), threading.Event()
        blocked = asyncio.create_task(app.state.services.engine.loaded_model.batcher.run_on_device(released.wait))
        caller = Caller(app, "POST", "/admin/reload", authorization="Bearer key")
        caller.says(b"")
        task = caller.task()
        caller.leaves()
        async with asyncio.timeout(10):
            await task
        assert app.state.services.engine.loaded_model.identity != new
        released.set()
        await blocked
        await until(lambda: app.state.services.engine.loaded_model.identity == new)


async def test_a_reload_that_does_not_end_fails_after_a_while_and_the_next_one_starts(app, folder, caplog):
    async with running(app), asyncio.timeout(20):
        services, released = app.state.services, threading.Event()
        reloader = ModelReloader(services.engine, services.settings, services.metrics, max_seconds=0.2)
        new = put(folder, 1)
        blocked = asyncio.create_task(services.engine.loaded_model.batcher.run_on_device(released.wait))
        with pytest.raises(ReloadFailed, match=r"served: not ready after 0.2 s; .* goes on serving"):
            await reloader.begin()
        released.set()
        await blocked
        await ModelReloader(services.engine, services.settings, services.metrics).begin()
        assert services.engine.loaded_model.identity == new


async def test_a_reload_resets_the_batch_limits(app, folder):
    async with running(app) as client:
        app.state.services.engine.loaded_model.batcher.set_batch_limits({"encode": 2})
        assert 'vae_batch_limit_items{operation="encode"} 2.0' in (await client.get("/metrics")).text
        put(folder, 1)
        await reload(client)
        assert 'vae_batch_limit_items{operation="encode"} 0.0' in (await client.get("/metrics")).text


async def test_an_engine_is_alive_and_not_ready_during_the_warm_up(app):
    async with app.router.lifespan_context(app):
        engine = app.state.services.engine
        assert (engine.alive, engine.ready) == (True, False)
        await until(lambda: engine.ready)


async def test_a_model_that_computes_no_finite_numbers_fails_its_warm_up(folder, device, caplog):
    _overflowing(folder)
    app = create_app(Settings(model=folder, device=device, threads=1))
    async with app.router.lifespan_context(app):
        await until(lambda: not app.state.services.engine.alive)
        assert not app.state.services.engine.ready
    assert "the warm-up of the model failed" in caplog.text


async def test_a_reload_that_the_end_of_the_service_interrupts_is_no_error(folder, device, caplog):
    app = create_app(Settings(model=folder, device=device, threads=1))
    caplog.set_level(logging.INFO)
    async with running(app):
        reload = app.state.services.reloader.begin()
        await app.state.services.engine.close()
        await asyncio.wait([reload])
    assert "not reloaded: the service is shutting down" in caplog.messages
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
