"""A program answers what the mathematics does, for every architecture, and keeps its rows apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.runtimes.batch_invariance import program_keeps_rows_apart
from app.runtimes.onnx_program import OnnxOperation, programs
from app.runtimes.operations import OPERATIONS, shapes
from app.runtimes.selection import networks
from app.settings import Settings
from tests.support.configs import configs
from tests.support.models import COLOUR, DIGITS, build

CPU = torch.device("cpu")


def columns(config, rows: int) -> dict[str, tuple[np.ndarray, ...]]:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (rows, *config.image_shape), np.uint8)
    latents = draw.standard_normal((rows, *config.latent_shape), np.float32)
    return {"encode": (pixels,), "decode": (latents,), "reconstruct": (pixels, latents)}


@settings(max_examples=40)
@given(configs(), st.integers(1, 5))
def test_of_every_architecture_a_program_answers_what_the_mathematics_does(config, rows):
    vae = build(config)
    for operation, given_ in columns(config, rows).items():
        answer = OnnxOperation(operation, vae, 1)(*given_)
        with torch.inference_mode():
            expected = [a.numpy() for a in OPERATIONS[operation](vae, *map(torch.from_numpy, given_))]
        assert [(a.shape, a.dtype) for a in answer] == [(a.shape, a.dtype) for a in expected]
        for found, wanted in zip(answer, expected, strict=True):
            if wanted.dtype == np.uint8:
                assert np.abs(found.astype(int) - wanted).max() <= 1
            else:
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_arrays_that_lie_otherwise_in_memory_are_read_as_they_are():
    vae = build(COLOUR)
    (pixels,) = columns(COLOUR, 6)["encode"]
    program = OnnxOperation("encode", vae, 1)
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for other in (turned, np.repeat(pixels, 2, axis=0)[::2]):
        assert not other.flags.c_contiguous
        assert all(np.array_equal(a, b) for a, b in zip(program(other), program(pixels), strict=True))


@pytest.mark.parametrize("largest", [1, 7, 64])
@pytest.mark.parametrize("config", [DIGITS, COLOUR], ids=["digits", "colour"])
def test_programs_keep_the_rows_of_a_batch_apart(config, largest):
    for program in programs(build(config), threads=1).values():
        assert program_keeps_rows_apart(program, config, shapes(largest))


class Nudged(OnnxOperation):
    """A program whose last number is off by its last bit in batches of `size`, before it is rounded to a level."""

    size = 0

    def tell(self, *given_):
        answers = super().tell(*given_)
        last = answers[-1]
        if len(last) == self.size:
            last.ravel()[-1] = np.nextafter(last.ravel()[-1], np.float32(np.inf))
        return answers


@pytest.mark.parametrize("operation", ["encode", "decode", "reconstruct"])
def test_one_last_bit_in_one_size_of_batch_is_noticed_under_the_rounding_too(operation):
    program = Nudged(operation, build(DIGITS), 1)
    assert program_keeps_rows_apart(program, DIGITS, [1, 4, 16])
    program.size = 4
    assert not program_keeps_rows_apart(program, DIGITS, [1, 4, 16])


def test_what_is_too_large_or_computed_otherwise_has_no_programs(monkeypatch):
    ways = [{}, {"runtime": "torch"}, {"runtime": "mnn"}, {"precision": "bfloat16"}]
    having = [set(networks(build(DIGITS), Settings(**way), CPU, 1, 2).programs) for way in ways]
    assert having == [{"encode", "decode", "reconstruct"}, set(), set(), set()]
    monkeypatch.setattr("app.runtimes.selection.COPIED", 1000)
    assert not networks(build(DIGITS), Settings(), CPU, 1, 2).programs


def test_a_program_that_is_given_too_little_says_so():
    with pytest.raises(ValueError, match="shorter"):
        OnnxOperation("reconstruct", build(DIGITS), 1)(columns(DIGITS, 1)["decode"][0])
