"""Tries of a request, on a clock that the test moves."""

import httpx
import pytest
from vae_client.retries import Tries


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(retry_after: str, status: int = 503) -> httpx.Response:
    return httpx.Response(status, headers={"Retry-After": retry_after})


def test_a_pause_is_never_shorter_than_retry_after_and_jitter_spreads_it() -> None:
    assert Tries(3, None, jitter=lambda: 0.0).pause(refusal("8")) == 8.0
    assert Tries(3, None, jitter=lambda: 1.0).pause(refusal("8")) == 10.0


def test_pauses_after_lost_connections_grow() -> None:
    tries = Tries(3, None, jitter=lambda: 1.0)
    assert [tries.pause(None) for _ in range(4)] == [0.1, 0.2, 0.4, None]


@pytest.mark.parametrize("response", [httpx.Response(200), httpx.Response(422), refusal("61"), refusal("1", 413)])
def test_other_responses_are_final(response: httpx.Response) -> None:
    assert Tries(3, None).pause(response) is None


def test_a_date_in_retry_after_is_read() -> None:
    assert Tries(3, None).pause(refusal("Wed, 21 Oct 2100 07:28:00 GMT")) is None
    assert Tries(3, None, jitter=lambda: 0.0).pause(refusal("Wed, 21 Oct 2015 07:28:00 GMT")) == 0.0


def test_a_date_beyond_all_calendars_is_one_second() -> None:
    date = f"Wed, 21 Oct {10**20} 07:28:00 GMT"
    assert Tries(3, None, jitter=lambda: 0.0).pause(refusal(date)) == 1.0


def test_a_pause_beyond_the_timeout_is_not_made() -> None:
    clock = Clock()
    tries = Tries(9, 10, clock, jitter=lambda: 0.0)
    assert tries.headers() == {"X-Request-Timeout": "10.000"}
    assert tries.pause(refusal("6")) == 6.0
    clock.now += 6
    assert tries.headers() == {"X-Request-Timeout": "4.000"}
    assert tries.arguments()["timeout"] == httpx.Timeout(4.0, read=5.0)
    assert tries.pause(refusal("6")) is None


def test_a_timeout_that_the_service_would_refuse_is_not_sent() -> None:
    assert Tries(0, 100_000).headers() == {}
    assert Tries(0, None).headers() == {}
    assert Tries(0, None).arguments()["timeout"] == httpx.Timeout(None)
