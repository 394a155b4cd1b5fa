"""The graph of an operation computes what torch does, for every architecture, and is batch invariant."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.batching.rows import RowBatch
from app.runtimes.base import Target
from app.runtimes.batch_invariance import graph_is_batch_invariant
from app.runtimes.onnx import OnnxModel
from app.runtimes.onnx_operations import OPERATION_GRAPHS, OnnxOperation
from app.runtimes.operations import OPERATIONS, batch_sizes
from app.runtimes.selection import compile_model
from app.settings import Settings
from model.formats.native import model_of
from model.vae import VAE
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
def test_the_graphs_of_every_architecture_compute_what_torch_computes(config, rows):
    vae = build(config)
    for operation, given_ in columns(config, rows).items():
        results = OnnxOperation(operation, vae, 1).run(RowBatch(given_)).columns
        with torch.inference_mode():
            expected = [a.numpy() for a in OPERATIONS[operation](vae, *map(torch.from_numpy, given_))]
        assert [(a.shape, a.dtype) for a in results] == [(a.shape, a.dtype) for a in expected]
        for found, wanted in zip(results, expected, strict=True):
            if wanted.dtype == np.uint8:
                assert np.abs(found.astype(int) - wanted).max() <= 1
            else:
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_arrays_of_any_memory_layout_are_read_correctly():
    vae = build(COLOUR)
    (pixels,) = columns(COLOUR, 6)["encode"]
    graph = OnnxOperation("encode", vae, 1)
    turned = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for other in (turned, np.repeat(pixels, 2, axis=0)[::2]):
        assert not other.flags.c_contiguous
        results = [graph.run(RowBatch((array,))).columns for array in (other, pixels)]
        assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("largest", [1, 7, 64])
@pytest.mark.parametrize(
    "config", [DIGITS, COLOUR, replace(COLOUR, posterior="bounded")], ids=["digits", "colour", "bounded colour"]
)
def test_graphs_are_batch_invariant(config, largest):
    model = model_of(build(config))
    for operation in OPERATION_GRAPHS:
        graph = OnnxOperation(operation, model.vae, 1)
        assert graph_is_batch_invariant(graph, model.spec, batch_sizes(largest))


class Nudged(OnnxOperation):
    """A graph that changes one bit before rounding to grey levels, in batches of `size`."""

    size = 0

    def run_unrounded(self, rows):
        results = super().run_unrounded(rows)
        last = results.columns[-1]
        if len(last) == self.size:
            last.ravel()[-1] = np.nextafter(last.ravel()[-1], np.float32(np.inf))
        return results


@pytest.mark.parametrize("operation", ["encode", "decode", "reconstruct"])
def test_one_bit_that_rounding_hides_is_detected(operation):
    model = model_of(build(DIGITS))
    graph = Nudged(operation, model.vae, 1)
    assert graph_is_batch_invariant(graph, model.spec, [1, 4, 16])
    graph.size = 4
    assert not graph_is_batch_invariant(graph, model.spec, [1, 4, 16])


def test_only_small_models_on_onnx_runtime_have_a_graph_for_each_operation():
    def operations(model: VAE, **options) -> set[str]:
        target = Target(CPU, options.get("precision", "float32"), 1, 2)
        compiled = compile_model(model_of(model), Settings(**options), target)
        return set(compiled.operations) if isinstance(compiled, OnnxModel) else set()

    assert operations(build(DIGITS)) == {"encode", "decode", "reconstruct"}
    for options in ({"runtime": "torch"}, {"precision": "bfloat16"}):
        assert not operations(build(DIGITS), **options)
    large = replace(DIGITS, hidden=(4096, 4100))
    assert not operations(VAE(large).eval(), runtime="onnxruntime")


def test_a_missing_input_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        OnnxOperation("reconstruct", build(DIGITS), 1).run(RowBatch(columns(DIGITS, 1)["decode"]))
