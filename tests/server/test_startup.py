"""First steps of a command: the garbage of slow imports is collected after them."""

import gc

import pytest

from app.server.startup import without_collections


@pytest.mark.parametrize("was_enabled", [True, False])
def test_collections_are_postponed_in_a_block_and_as_before_after_it(was_enabled: bool) -> None:
    if not was_enabled:
        gc.disable()
    try:
        with without_collections(), without_collections():
            assert not gc.isenabled()
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()


def test_collections_are_as_before_after_a_failed_import() -> None:
    with pytest.raises(ImportError), without_collections():
        raise ImportError
    assert gc.isenabled()
