"""The client against the real service."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from vae_client import AsyncClient, Client, Problem, calls

from app.codecs.images import write_npy
from model.checkpoint import METRICS
from model.elbo import SCORE_DRAWS
from tests.support.in_thread_server import listening, on_a_socket

KEY = "a-key-of-the-tests"


def full(*pauses: str) -> Starlette:
    """An application that answers 503 with each Retry-After in turn, and then describes its model."""
    retry_after = iter(pauses)

    async def model(request: Request) -> JSONResponse:
        pause = next(retry_after, None)
        return JSONResponse({"name": "mnist"}) if pause is None else JSONResponse({}, 503, {"Retry-After": pause})

    return Starlette(routes=[Route("/model", model)])


@contextmanager
def closing_server() -> Iterator[str]:
    """A server whose connections announce keep-alive, and end when the second request arrives; gives its URL."""
    body = b'{"name": "mnist"}'
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def serve() -> None:
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(response)
                connection.recv(2**16)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    thread.join(10)


@pytest.fixture(scope="module")
def url(digits_model: Path) -> Iterator[str]:
    with listening(model=digits_model, api_key=f"{KEY}, clé-ü") as address:
        yield address


@pytest.fixture
def vae(url: str) -> Iterator[Client]:
    with Client(url, api_key=KEY, retries=20) as client:
        yield client


def test_a_seed_reproduces_draws(vae: Client, digits: np.ndarray) -> None:
    drawn = vae.encode(digits[:2, 0], samples=3)
    again = vae.encode(digits[:2, 0], samples=3, seed=drawn.seed)
    assert drawn.z.shape == (3, 2, 4)
    np.testing.assert_array_equal(drawn.z, again.z)
    sampled = vae.sample(4)
    np.testing.assert_array_equal(sampled.images, vae.sample(4, seed=sampled.seed).images)
    assert len({vae.sample(2).seed for _ in range(3)}) == 3


def test_draws_are_returned_only_on_request(vae: Client, digits: np.ndarray) -> None:
    encoded = vae.encode(digits[:2, 0])
    assert encoded.z.shape == (0, 2, 4)
    assert encoded.seed is None


def test_deviations_are_images_minus_reconstructions(vae: Client, digits: np.ndarray) -> None:
    pixels = digits[:3].transpose(0, 2, 3, 1)
    deviations = vae.deviations(pixels)
    assert deviations.dtype == np.float32
    assert np.abs(pixels / 255 - deviations - vae.reconstruct(pixels) / 255).max() <= 0.51 / 255


def test_the_terms_of_a_score_add_up(vae: Client, digits: np.ndarray) -> None:
    scored = vae.score(digits[:4, 0])
    np.testing.assert_allclose(scored.elbo, scored.reconstruction - scored.kl, rtol=1e-5)
    assert scored.log_likelihood is None
    assert scored.percentile is None
    assert vae.score(digits[:4, 0], samples=7).log_likelihood.shape == (4,)


def test_a_model_that_was_evaluated_gives_percentiles(evaluated_model: Path, digits: np.ndarray) -> None:
    with listening(model=evaluated_model) as address, Client(address, retries=20) as evaluated:
        scored = evaluated.score(digits[:4, 0])
    np.testing.assert_allclose(scored.percentile, np.clip(scored.elbo + 200, 0, 100), atol=1e-3)


def test_the_model_has_its_shapes(vae: Client) -> None:
    assert vae.model()["latent_shape"] == [4]


def test_the_history_is_separate_from_the_model(evaluated_model: Path) -> None:
    with listening(model=evaluated_model) as address, Client(address, retries=20) as evaluated:
        history, model = evaluated.history(), evaluated.model()
    assert history["model"] == model["model"]
    assert history["metrics"] == json.loads((evaluated_model / METRICS).read_text())
    assert "metrics" not in model


def test_an_error_raises_a_problem_with_the_detail_of_the_service(vae: Client) -> None:
    with pytest.raises(Problem, match=r"expected a float32 array \[N, 4\].*, got float32 \[1, 5\]") as caught:
        vae.decode(np.zeros((1, 5)))
    assert caught.value.status == 422
    assert caught.value.request_id


def test_a_wrong_key_raises_a_problem(url: str) -> None:
    with Client(url, api_key="another") as unauthorized, pytest.raises(Problem, match="401"):
        unauthorized.sample(1)


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of this machine on which no process listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.anyio
async def test_an_error_of_the_connection_names_the_url_without_its_password(closed: int) -> None:
    reason = rf"GET http://127.0.0.1:{closed}/model: .+"
    with Client(f"http://user:secret@127.0.0.1:{closed}") as client, pytest.raises(httpx.ConnectError, match=reason):
        client.model()
    async with AsyncClient(f"http://user:secret@127.0.0.1:{closed}") as client:
        with pytest.raises(httpx.ConnectError, match=reason) as caught:
            await client.model()
    assert caught.value.request.method == "GET"


def test_an_error_without_words_has_its_name() -> None:
    def expire(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("")

    client = Client("http://vae", transport=httpx.MockTransport(expire))
    with client, pytest.raises(httpx.ReadTimeout, match=r"^GET http://vae/model: ReadTimeout$"):
        client.model()


@pytest.mark.anyio
async def test_a_key_need_not_be_ascii(url: str, vae: Client) -> None:
    with Client(url, api_key="clé-ü") as client:
        assert client.model() == vae.model()
    async with AsyncClient(url, api_key="clé-ü") as client:
        assert await client.model() == vae.model()


@pytest.mark.anyio
async def test_own_headers_are_sent_and_the_key_replaces_their_authorization(url: str) -> None:
    own = {"X-Request-ID": "mine", "authorization": "Bearer another"}
    with Client(url, api_key=KEY, headers=own) as client, pytest.raises(Problem, match="422") as caught:
        client.sample(0)
    assert caught.value.request_id == "mine"
    async with AsyncClient(url, api_key=KEY, headers=own) as client:
        with pytest.raises(Problem, match="422") as caught:
            await client.sample(0)
    assert caught.value.request_id == "mine"


def test_without_a_key_an_own_authorization_header_is_sent(url: str, vae: Client) -> None:
    with Client(url, headers=[("Authorization", f"Bearer {KEY}")]) as client:
        assert client.model() == vae.model()


def test_a_request_to_a_full_queue_is_sent_again_until_it_is_accepted(digits_model: Path, digits: np.ndarray) -> None:
    """One service with room for a single request; many clients at once all get their answers."""
    with listening(model=digits_model, max_queue_items=64, max_items=64) as address:
        answers: list[int] = []

        def ask() -> None:
            with Client(address, retries=50) as client:
                answers.append(len(client.encode(digits[:64, 0]).mean))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [64] * 8


def test_a_retry_after_of_more_than_a_minute_raises_a_problem() -> None:
    with on_a_socket(full("0", "61", "0")) as address, Client(address) as client:
        with pytest.raises(Problem, match="503"):
            client.model()
        assert client.model() == {"name": "mnist"}


@pytest.mark.anyio
@pytest.mark.parametrize("retry_after", ["61", "86400", "9" * 400])
async def test_a_retry_after_of_more_than_a_minute_raises_a_problem_in_the_async_client(retry_after: str) -> None:
    async with AsyncClient("http://vae", transport=httpx.ASGITransport(full(retry_after))) as client:
        with pytest.raises(Problem, match="503"):
            await client.model()


@pytest.mark.anyio
async def test_a_retry_after_that_cannot_be_read_is_one_second() -> None:
    async def ask(pause: str) -> dict[str, Any]:
        async with AsyncClient("http://vae", transport=httpx.ASGITransport(full(pause))) as client:
            return await client.model()

    assert await asyncio.gather(*map(ask, ("soon", "-5", ""))) == [{"name": "mnist"}] * 3


def test_a_lost_connection_is_opened_again() -> None:
    """A server that closes each connection after one response, as a proxy does with one that was idle."""
    with closing_server() as address, Client(address) as client:
        assert client.model() == client.model() == {"name": "mnist"}


@pytest.mark.anyio
async def test_the_timeout_reaches_the_service_and_covers_the_retries() -> None:
    deadlines: list[float] = []

    async def model(request: Request) -> JSONResponse:
        deadlines.append(float(request.headers["x-request-timeout"]))
        return JSONResponse({}, 503, {"Retry-After": "1"})

    app = Starlette(routes=[Route("/model", model)])
    async with AsyncClient("http://vae", transport=httpx.ASGITransport(app), timeout=50) as client:
        with pytest.raises(Problem, match="503"):
            await client.model(timeout=2)
    assert 1 <= len(deadlines) <= 2
    assert deadlines[0] == pytest.approx(2, abs=0.1)
    assert deadlines[-1] < 1 or len(deadlines) == 1


def test_large_inputs_are_divided_in_order(url: str, vae: Client, digits: np.ndarray) -> None:
    images = digits[:50, 0]
    with Client(url, api_key=KEY, retries=20, max_items=7) as by_items:
        np.testing.assert_allclose(by_items.encode(images).mean, vae.encode(images).mean, atol=1e-5)
        assert np.abs(by_items.reconstruct(images).astype(int) - vae.reconstruct(images)).max() <= 1
    with Client(url, api_key=KEY, retries=20, max_bytes=300) as by_bytes:
        np.testing.assert_allclose(by_bytes.encode(images).mean, vae.encode(images).mean, atol=1e-5)


@pytest.mark.anyio
async def test_progress_counts_the_items_of_all_requests(url: str, digits: np.ndarray) -> None:
    images, steps = digits[:20, 0], []

    def watch(done: int, total: int) -> None:
        steps.append((done, total))

    with Client(url, api_key=KEY, retries=20, max_items=6) as client:
        encoded = client.encode(images, progress=watch)
        client.decode(encoded, progress=watch)
    async with AsyncClient(url, api_key=KEY, retries=20, max_items=6 * SCORE_DRAWS) as client:
        await client.score(images, progress=watch)
    for call in (steps[:4], steps[4:8], steps[8:]):
        assert [total for _, total in call] == [20] * 4
        assert sorted(done for done, _ in call) == [done for done, _ in call]
        assert call[-1] == (20, 20)


def test_scores_are_counted_with_the_draws_that_the_service_takes(vae: Client, digits: np.ndarray) -> None:
    counts: list[int] = []

    def watch(done: int, _: int) -> None:
        counts.append(done)

    vae.score(digits[:100, 0], progress=watch)
    assert sorted(np.diff([0, *counts])) == [4, 32, 32, 32]
    assert calls.SCORE_DRAWS == SCORE_DRAWS
    counts.clear()
    vae.score(digits[:100, 0], samples=2, progress=watch)
    assert counts == [100]


def test_several_requests_of_a_call_are_sent_at_once() -> None:
    together = threading.Barrier(3)  # breaks unless three requests are there at the same time

    async def encode(request: Request) -> Response:
        await asyncio.to_thread(together.wait, 10)
        return Response(write_npy(np.zeros((2, 2, 4), np.float32)), headers={"x-seed": "1"})

    app = Starlette(routes=[Route("/encode", encode, methods=["POST"])])
    with on_a_socket(app) as address, Client(address, max_items=2, concurrency=3) as client:
        assert client.encode(np.zeros((6, 8, 8), np.uint8)).mean.shape == (6, 4)


@pytest.mark.anyio
async def test_the_parts_of_a_seeded_call_have_draws_of_their_own(url: str, digits: np.ndarray) -> None:
    same = np.repeat(digits[:1, 0], 12, axis=0)
    async with AsyncClient(url, api_key=KEY, retries=20, max_items=4) as client:
        drawn, again = await client.encode(same, samples=1, seed=7), await client.encode(same, samples=1, seed=7)
        sampled, scored = await client.sample(12, seed=7), await client.score(same, seed=7)
    assert drawn.seed == 7
    assert len(np.unique(drawn.z[0], axis=0)) == 12
    np.testing.assert_array_equal(drawn.z, again.z)
    assert len(np.unique(sampled.images, axis=0)) == 12
    assert len({*scored.elbo}) == 1  # their draws follow from the pixels


def test_a_request_that_is_too_large_for_the_service_is_sent_as_halves(digits_model, digits) -> None:
    with listening(model=digits_model, max_items=5) as address, Client(address, retries=20) as client:
        assert client.encode(digits[:23, 0]).mean.shape == (23, 4)
        with pytest.raises(Problem, match="413"):
            client.encode(digits[:1, 0], samples=6)


@pytest.mark.anyio
async def test_an_error_of_one_part_is_that_of_the_call(url: str) -> None:
    async with AsyncClient(url, api_key=KEY, max_items=2) as client:
        with pytest.raises(Problem, match="422"):
            await client.encode([b"no image"] * 9)


@pytest.mark.anyio
async def test_the_async_client_returns_the_same_as_the_sync_one(url: str, vae: Client, digits: np.ndarray) -> None:
    images = digits[:3, 0]
    async with AsyncClient(url, api_key=KEY) as client:
        np.testing.assert_allclose((await client.encode(images)).mean, vae.encode(images).mean, atol=1e-5)
        np.testing.assert_array_equal(await client.reconstruct(images, seed=5), vae.reconstruct(images, seed=5))
        np.testing.assert_array_equal((await client.sample(3, seed=5)).images, vae.sample(3, seed=5).images)
        np.testing.assert_array_equal((await client.score(images, seed=5)).elbo, vae.score(images, seed=5).elbo)
        assert (await client.decode(np.zeros((1, 4)))).shape == (1, 8, 8, 1)
        np.testing.assert_array_equal(await client.interpolate(images[:2]), vae.interpolate(images[:2]))
        assert await client.model() == vae.model()
        assert await client.history() == vae.history()
        with pytest.raises(Problem, match="422"):
            await client.decode(np.zeros((1, 5)))


def test_scores_of_a_calibrated_model_have_a_typicality_and_with_alpha_anomalies(
    calibrated_model: Path, vae: Client, digits: np.ndarray
) -> None:
    with listening(model=calibrated_model) as address, Client(address) as calibrated:
        scored = calibrated.score(digits[300:310, 0], alpha=0.3)
        plain = calibrated.score(digits[300:310, 0])
    assert scored.typicality is not None
    assert scored.anomalous is not None
    assert scored.anomalous.dtype == bool
    np.testing.assert_array_equal(scored.anomalous, scored.typicality <= 0.3)
    assert plain.anomalous is None
    assert vae.score(digits[:1, 0]).typicality is None
    with pytest.raises(Problem, match="alpha: not supported"):
        vae.score(digits[:1, 0], alpha=0.01)
