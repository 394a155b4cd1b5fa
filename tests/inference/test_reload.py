"""Another checkpoint takes over while requests are under way: each is answered by the weights that its answer names."""

import asyncio
import json
import os
import threading
from functools import partial

import httpx
import numpy as np
import pytest
import torch

from app.codecs.images import write_npy
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
    return create_app(Settings(model=folder, device=device, threads=1, api_key="key"))


async def reload(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/admin/reload", headers=KEY)


async def test_a_reload_wants_a_key_that_opens_the_house_and_no_file(folder, device, tmp_path):
    (tmp_path / "keys").write_text("key")
    app = create_app(Settings(model=folder, device=device, threads=1, api_key_file=tmp_path / "keys"))
    (tmp_path / "keys").unlink()
    async with running(app) as client:
        assert (await reload(client)).status_code == 200


async def test_a_reload_does_not_wait_behind_pictures(app):
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


async def test_a_reload_serves_what_the_folder_holds_now_and_says_so(app, folder):
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


async def test_without_a_key_nobody_reloads_over_http(serve):
    async with serve() as client:
        answer = await client.post("/admin/reload")
        assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
        assert "VAE_API_KEY" in answer.json()["detail"]
        assert "/admin/reload" not in (await client.get("/openapi.json")).json()["paths"]


async def test_only_who_has_the_key_reloads_and_only_by_post(app):
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
async def test_a_folder_without_a_usable_model_leaves_the_old_one_serving(app, folder, spoil, caplog):
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


async def test_metrics_that_cannot_be_used_are_told_as_warnings_and_the_model_is_served(app, folder, device, caplog):
    reference = {"elbo": [float(n) for n in range(101)]}
    async with running(app) as client:
        (folder / METRICS).write_text(json.dumps({"evaluations": [{}], "reference": reference}))
        assert (await reload(client)).status_code == 200
        told = "metrics.json: evaluations[0].images is missing; the entry is left out"
        assert [r.getMessage().partition("served/")[2] for r in caplog.records if r.levelname == "WARNING"] == [told]
        assert app.state.services.engine.loaded_model.reference
        (folder / METRICS).write_text("{")
        assert (await reload(client)).status_code == 200
        assert "metrics.json: not JSON" in caplog.text
        assert not app.state.services.engine.loaded_model.reference
    caplog.clear()
    async with running(create_app(Settings(model=folder, device=device, threads=1))) as client:
        assert "percentile" not in (await client.get("/model")).json()["scores"]
    assert [r.levelname for r in caplog.records if "metrics.json: not JSON" in r.getMessage()] == ["WARNING"]


async def test_a_request_that_is_under_way_is_answered_by_the_model_that_it_began_with(app, folder, digits):
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


async def test_under_load_every_answer_is_that_of_the_weights_it_names_and_none_is_lost(app, folder, digits):
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
        callers = [asyncio.create_task(caller(client)) for _ in range(8)]
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


async def test_reloads_that_are_asked_for_during_one_are_joined_in_the_next(app, folder):
    async with running(app) as client:
        new = put(folder, 1)
        answers = await asyncio.gather(*(reload(client) for _ in range(30)))
        assert {(answer.status_code, answer.json()["model"]) for answer in answers} == {(200, new)}
        text = (await client.get("/metrics")).text
        assert any(f'vae_reloads_total{{outcome="success"}} {count}.0' in text for count in (1, 2))


async def test_who_joins_a_reload_that_fails_is_told_why(app, folder, caplog):
    async with running(app) as client:
        _gone(folder)
        answers = await asyncio.gather(*(reload(client) for _ in range(10)))
        assert {(answer.status_code, answer.json()["title"]) for answer in answers} == {(409, "Not reloaded")}
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) <= 2


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
async def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused_and_not_waited_for(app, folder, name):
    async with running(app) as client, asyncio.timeout(30):
        for put_there in (os.mkfifo, partial(os.symlink, "/dev/zero")):
            (folder / name).unlink()
            put_there(folder / name)
            answer = await reload(client)
            assert answer.status_code == 409
            assert f"{name}: expected a regular file" in answer.json()["detail"]


async def test_a_reload_takes_longer_than_a_body_may_and_is_answered(app, folder):
    async with running(app) as client:
        new = put(folder, 1)
        answer = await client.post("/admin/reload", headers={**KEY, "X-Request-Timeout": "0.001"})
        assert (answer.status_code, answer.headers["X-Model"]) == (200, new)


async def test_a_reload_is_carried_through_though_its_caller_has_left(app, folder):
    async with running(app):
        new = put(folder, 1)
        caller = Caller(app, "POST", "/admin/reload", authorization="Bearer key")
        caller.says(b"")
        task = caller.task()
        await until(lambda: len(app.state.services.state.in_flight) == 1)
        caller.leaves()
        await task
        await until(lambda: app.state.services.engine.loaded_model.identity == new)


async def test_a_limit_that_the_old_model_met_does_not_bind_the_new_one(app, folder):
    async with running(app) as client:
        app.state.services.engine.loaded_model.batcher.set_batch_limits({"encode": 2})
        assert 'vae_batch_limit_items{operation="encode"} 2.0' in (await client.get("/metrics")).text
        put(folder, 1)
        await reload(client)
        assert 'vae_batch_limit_items{operation="encode"} 0.0' in (await client.get("/metrics")).text


async def test_an_engine_that_is_not_warm_yet_is_alive_and_not_ready(app):
    async with app.router.lifespan_context(app):
        engine = app.state.services.engine
        assert (engine.alive, engine.ready) == (True, False)
        await until(lambda: engine.ready)


async def test_a_model_that_gives_no_finite_numbers_does_not_get_warm(folder, device, caplog):
    _overflowing(folder)
    app = create_app(Settings(model=folder, device=device, threads=1))
    async with app.router.lifespan_context(app):
        await until(lambda: not app.state.services.engine.alive)
        assert not app.state.services.engine.ready
    assert "the warm-up of the model failed" in caplog.text
