"""The floating-point operations of a model are counted without running it."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from onnx import helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from app.runtimes.flops import Growth, count_flops, flops_of, growth_of, is_compute_bound
from model.formats import read_model
from model.vae import VAE
from tests.support.configs import configs
from tests.support.diffusers_models import build
from tests.support.diffusers_models import write as write_diffusers
from tests.support.models import COLOUR, COMPUTE_BOUND, DIGITS
from tests.support.onnx_pairs import (
    SPATIAL_DECODER,
    SPATIAL_ENCODER,
    VECTOR_DECODER,
    VECTOR_ENCODER,
    write_attention_pair,
    write_spatial_pair,
    write_vector_pair,
)


@settings(max_examples=60)
@given(configs())
def test_the_count_is_that_of_torch(config):
    vae = VAE(config).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vae.posterior(torch.zeros(1, *config.image_shape))
        vae.likelihood(torch.zeros(1, *config.latent_shape))
    assert count_flops(vae) == counter.get_total_flops()


@pytest.mark.parametrize(("config", "compute_bound"), [(DIGITS, False), (COLOUR, False), (COMPUTE_BOUND, True)])
def test_a_model_with_many_operations_is_compute_bound(config, compute_bound):
    assert is_compute_bound(VAE(config)) is compute_bound


@pytest.mark.parametrize(
    ("write", "networks"),
    [(write_vector_pair, (VECTOR_ENCODER, VECTOR_DECODER)), (write_spatial_pair, (SPATIAL_ENCODER, SPATIAL_DECODER))],
)
def test_the_count_of_a_pair_of_graphs_is_that_of_torch(tmp_path, write, networks):
    model = read_model(write(tmp_path)).model
    counts = []
    for network, shape in zip(networks, (model.spec.image_shape, model.spec.latent_shape), strict=True):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *shape))
        counts.append(counter.get_total_flops())
    assert flops_of(model) == tuple(counts)


def test_values_that_no_output_needs_are_not_computed_to_count_operations(tmp_path):
    folder = write_vector_pair(tmp_path)
    expected, graph = flops_of(read_model(folder).model), onnx.load(folder / "encoder.onnx")
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2**40]), "size"))
    value = numpy_helper.from_array(np.array([1]), "value")
    graph.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["unused"], value=value))
    (folder / "encoder.onnx").write_bytes(graph.SerializeToString())
    assert flops_of(read_model(folder).model) == expected


@pytest.mark.parametrize(("name", "has_attention"), [("kl", True), ("flux2", True), ("tiny", False), ("dc", False)])
def test_the_operations_of_a_model_with_attention_over_all_pixels_grow_with_their_square(tmp_path, name, has_attention):
    model = read_model(write_diffusers(tmp_path, name)).model
    growths = growth_of(model)
    assert all(growth.memory == 0 for growth in growths)
    if not has_attention:
        assert [growth.flops for growth in growths] == pytest.approx([0, 0, 0], abs=1e-12)
        return
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:  # on a CPU it leaves attention out
        build(name).encode(torch.zeros(1, 3, 64, 64))
    tokens, channels = 1 / 8**2, 16  # for each pixel
    assert growths[0].flops * counter.get_total_flops() / 64**2 == pytest.approx(4 * tokens**2 * channels, rel=0.01)


def test_the_operations_and_memory_of_a_graph_with_attention_grow_with_the_square_of_the_pixels(tmp_path):
    model = read_model(write_attention_pair(tmp_path, maximum=4096)).model
    encode, decode, both = growth_of(model)
    tokens, channels = 1 / 4**2, 4  # for each pixel
    linear = sum(flops_of(read_model(write_spatial_pair(tmp_path / "linear")).model)[:1]) / 16**2
    assert encode.flops * linear == pytest.approx(4 * tokens**2 * channels)
    assert encode.memory == pytest.approx(4 * 2 * tokens**2, rel=0.1)  # the products before and after their softmax
    assert (decode.flops, decode.memory) == pytest.approx((0, 0), abs=1e-12)
    assert 0 < both.flops < encode.flops
    assert both.memory == encode.memory


def test_nothing_grows_in_a_pair_of_one_size(tmp_path):
    assert growth_of(read_model(write_vector_pair(tmp_path)).model) == (Growth(),) * 3
