"""Pairs of ONNX graphs that are broken, do not fit their config or could harm are refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from model.files import CheckpointError
from model.formats import check_model, read_model
from tests.support.onnx_pairs import (
    SPATIAL_DECODER,
    VECTOR,
    VECTOR_DECODER,
    VECTOR_ENCODER,
    graph_of,
    write_graphs,
    write_optimum_pair,
    write_spatial_pair,
    write_vector_pair,
)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        read_model(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def changed(folder: Path, change: Callable[[ModelProto], object], name: str = "encoder.onnx") -> Path:
    """The pair in a folder, with one of its graphs changed."""
    model = onnx.load(folder / name)
    change(model)
    (folder / name).write_bytes(model.SerializeToString())
    return folder


def with_weights_in(location: str, **fields: str) -> Callable[[ModelProto], object]:
    """A change of a graph that moves its first weights to a file."""

    def change(model: ModelProto) -> None:
        weights = model.graph.initializer[0]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **fields}.items():
            weights.external_data.add(key=key, value=value)

    return change


def with_node(operator: str, domain: str = "") -> Callable[[ModelProto], object]:
    """A change of a graph that adds a node with an unused output inside a branch."""

    def change(model: ModelProto) -> None:
        inner = helper.make_node(operator, ["x"], ["unused"], domain=domain)
        branch = helper.make_graph([inner], "branch", [], [helper.make_empty_tensor_value_info("unused")])
        model.graph.initializer.append(numpy_helper.from_array(torch.tensor(True).numpy(), "condition"))
        model.graph.node.append(
            helper.make_node("If", ["condition"], ["branched"], then_branch=branch, else_branch=branch)
        )

    return change


def with_dropout(training: bool) -> Callable[[ModelProto], object]:
    """A change of a graph that adds a Dropout with an unused output."""

    def change(model: ModelProto) -> None:
        for name, value in (("ratio", torch.tensor(0.5)), ("mode", torch.tensor(training))):
            model.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
        model.graph.node.append(helper.make_node("Dropout", ["x", "ratio", "mode"], ["dropped"]))

    return change


def with_batch_statistics(model: ModelProto) -> None:
    names = ["x", "scale", "bias", "mean", "var"]
    for name in names[1:]:
        model.graph.initializer.append(numpy_helper.from_array(torch.ones(1).numpy(), name))
    outputs = ["normalised", "new_mean", "new_var"]
    model.graph.node.append(helper.make_node("BatchNormalization", names, outputs, training_mode=1))


def with_nan(model: ModelProto) -> None:
    weights = model.graph.initializer[0]
    values = numpy_helper.to_array(weights).copy()
    values.flat[-1] = torch.nan
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


def with_truncated_weights(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "a/../../secret", "", ".", "a//b", "C:/weights", "..\\secret", "link", "dir/f"],
)
def test_weights_outside_of_the_folder_are_refused(tmp_path, location):
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = changed(write_vector_pair(tmp_path / "model"), with_weights_in(location))
    (folder / "link").symlink_to("../secret")
    (folder / "dir").symlink_to(tmp_path)
    (tmp_path / "f").write_bytes(bytes(10_000))
    assert "expected weights in a file of this folder" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"offset": "0", "length": "1001"}, "lies outside of data, a file of 1000 bytes"),
        ({"offset": "-4", "length": "8"}, "lies outside of data"),
        ({"offset": "much", "length": "8"}, "lies outside of data"),
        ({"offset": "0", "length": "8"}, "ONNX Runtime cannot open the graph"),
    ],
)
def test_weights_beyond_their_file_are_refused(tmp_path, fields, sentence):
    folder = changed(write_vector_pair(tmp_path), with_weights_in("data", **fields))
    (folder / "data").write_bytes(bytes(1000))
    with pytest.raises(CheckpointError, match=sentence):
        read_model(folder).model.posterior(torch.zeros(1, 1, 8, 8))


def test_two_entries_for_the_file_of_weights_are_refused(tmp_path):
    def change(model: ModelProto) -> None:
        with_weights_in("data")(model)
        model.graph.initializer[0].external_data.add(key="location", value="other")

    (tmp_path / "data").write_bytes(bytes(10_000))
    sentence = "expected one entry each for its file, got location, location"
    assert refusal(changed(write_vector_pair(tmp_path), change)).endswith(sentence)


def test_weights_in_a_file_that_are_not_numbers_are_refused(tmp_path):
    folder = changed(write_vector_pair(tmp_path), with_weights_in("data", length="4096"))
    (folder / "data").write_bytes(bytes(4092) + b"\xff" * 4)
    assert refusal(folder).endswith("expected numbers, got NaN")


def test_dropout_that_is_switched_off_is_served(tmp_path):
    model = read_model(changed(write_vector_pair(tmp_path), with_dropout(False))).model
    assert model.posterior(torch.zeros(1, 1, 8, 8)).mean.shape == (1, 3)


def test_a_missing_file_with_weights_is_named(tmp_path):
    folder = changed(write_vector_pair(tmp_path), with_weights_in("encoder.onnx.data"))
    assert refusal(folder) == f"{folder}/encoder.onnx.data: No such file or directory"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (with_node("Steal", "com.evil"), "Steal is an operator of the domain 'com.evil'"),
        (with_node("Gelu", "com.microsoft"), "Gelu is an operator of the domain 'com.microsoft'"),
        (with_node("RandomNormalLike"), "RandomNormalLike draws random numbers without a seed; export the mean"),
        (with_node("Loop"), "Loop may compute without end, and cannot be interrupted; export the module without"),
        (with_node("Scan"), "Scan may compute without end"),
        (with_dropout(True), "Dropout computes as in training; export the module in evaluation mode"),
        (with_batch_statistics, "BatchNormalization computes as in training"),
        (with_nan, r"encoder.onnx: .*: expected numbers, got NaN"),
        (with_truncated_weights, "encoder.onnx: .*: not the weights of"),
        (lambda model: model.functions.add(name="f", domain="local"), "a graph without local functions, got f"),
        (lambda model: model.graph.input.add(name="noise").CopyFrom(_named(model, "noise")), "one input, got x, noise"),
        (lambda model: model.graph.output.pop(), r"expected 2 outputs, got mean float32 \(\?, 3\)"),
        (lambda model: _set_type(model, TensorProto.INT64), "mean: expected float32 or float16, got int64"),
        (lambda model: _set_batch(model, 4), r"expected batches of any size, or of 1, got x float32 \(4, 1, 8, 8\)"),
    ],
)
def test_a_graph_that_is_not_that_of_an_encoder_is_refused(tmp_path, change, sentence):
    folder = changed(write_vector_pair(tmp_path), change)
    with pytest.raises(CheckpointError, match=sentence):
        read_model(folder)


def _named(model: ModelProto, name: str) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto()
    value.CopyFrom(model.graph.input[0])
    value.name = name
    return value


def _set_type(model: ModelProto, kind: int) -> None:
    model.graph.output[0].type.tensor_type.elem_type = kind


def _set_batch(model: ModelProto, size: int) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"image_shape": [1, 9, 8]}, r"encoder.onnx: x float32 \(\?, 1, 8, 8\): config.json expects \(\?, 1, 9, 8\)"),
        ({"latent_shape": [4]}, r"decoder.onnx: x float32 \(\?, 3\): config.json expects \(\?, 4\)"),
        ({"layout": "NHWC"}, r"config.json expects \(\?, 8, 8, 1\)"),
        ({"encoder_output": "moments"}, "expected 1 output, got mean"),
        ({"likelihood": "logistic", "decoder_output": "logits"}, r"config.json expects \(\?, 2, 8, 8\)"),
        ({"likelihood": "logistic"}, "decoder_output: expected logits for the likelihood logistic, got 'mean'"),
        ({"decoder_output": "logits"}, "decoder_output: expected mean where likelihood is null"),
        ({"likelihood": "cauchy"}, "likelihood: expected null or one of bernoulli"),
        ({"pixel_range": [1, 0]}, "pixel_range: expected two rising numbers"),
        ({"scaling_factor": [1, 2]}, "scaling_factor: expected one number"),
        ({"scaling_factor": 0}, "scaling_factor: expected numbers other than 0"),
        ({"scaling_factor": 10**400}, "scaling_factor: expected finite numbers, got 1000000"),
        ({"pixel_range": [-1e300, 1e300]}, "pixel_range: expected finite numbers"),
        ({"minimum": 8}, "factor: expected a factor with minimum and maximum"),
        ({"encoder_output": None}, "encoder_output: expected one of mean_logvar, moments, code, got None"),
        ({"channels": 3}, "unknown field 'channels'; known are image_shape"),
        ({"sha256": {"decoder.onnx": "0"}}, "decoder.onnx: written with another config.json"),
    ],
)
def test_a_config_that_does_not_describe_the_graphs_is_refused(tmp_path, config, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        read_model(write_vector_pair(tmp_path, **config))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"maximum": 63}, "maximum: expected a multiple of factor 4, got 63"),
        ({"minimum": 32}, "image_shape: expected sides that are a multiple of factor 4 between minimum and maximum"),
        ({"latent_shape": [2, 4, 5]}, r"latent_shape: expected \(C, 4, 4\)"),
        (
            {"factor": 0, "minimum": 0, "maximum": 0, "image_shape": [3, 20, 16]},
            "expected .* for two images of 16 x 20",
        ),
    ],
)
def test_a_config_with_other_sizes_than_the_graphs_is_refused(tmp_path, config, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        read_model(write_spatial_pair(tmp_path, **config)).model.posterior(torch.zeros(1, 3, 20, 16))


def test_a_graph_of_one_size_is_refused_where_the_config_has_many(tmp_path):
    folder = write_spatial_pair(tmp_path)
    onnx.save(graph_of(SPATIAL_DECODER, (2, 4, 4)), folder / "decoder.onnx")
    assert refusal(folder).endswith("decoder.onnx: x float32 (?, 2, 4, 4): config.json expects (?, 2, ?, ?)")


def test_a_decoder_whose_undeclared_output_has_another_shape_is_refused_when_it_is_opened(tmp_path):
    decoder = graph_of(nn.Sequential(*VECTOR_DECODER[:-1], nn.Unflatten(1, (1, 4, 16))), (3,))
    decoder.graph.output[0].type.tensor_type.ClearField("shape")
    folder = write_graphs(tmp_path, graph_of(VECTOR_ENCODER, (1, 8, 8), split=True), decoder, **VECTOR)
    with pytest.raises(CheckpointError, match=r"decoder.onnx: expected \(2, 1, 8, 8\) for two latents of \(3,\)"):
        read_model(folder).model.likelihood(torch.zeros(1, 3))


def test_a_decoder_that_computes_the_smallest_size_only_is_refused_when_it_is_opened(tmp_path):
    folder = write_spatial_pair(tmp_path)
    decoder = graph_of(nn.Sequential(*SPATIAL_DECODER, nn.Flatten(), nn.Unflatten(1, (3, 4, 4))), (2, "h", "w"))
    onnx.save(decoder, folder / "decoder.onnx")
    with pytest.raises(CheckpointError, match=r"decoder.onnx: "):
        read_model(folder).model.likelihood(torch.zeros(1, 2, 1, 1))


def test_a_decoder_without_finite_images_is_refused_when_it_is_opened(tmp_path):
    folder = write_spatial_pair(tmp_path)
    model = onnx.load(folder / "decoder.onnx")
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * torch.inf, weights.name))
    (folder / "decoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"decoder.onnx: expected finite numbers for two latents of \(2, 1, 1\)"):
        read_model(folder).model.likelihood(torch.zeros(1, 2, 1, 1))


def test_files_that_are_no_pair_are_refused(tmp_path):
    folder = write_vector_pair(tmp_path / "a")
    (folder / "decoder.onnx").write_bytes((folder / "decoder.onnx").read_bytes()[:100])
    assert refusal(folder) == f"{folder}/decoder.onnx: not an ONNX graph, 100 bytes"
    (folder / "decoder.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"decoder.onnx: No such file"):
        check_model(folder)
    for fields, sentence in (
        ({"scaling_factor": "abc"}, "scaling_factor: expected a finite number, got 'abc'"),
        ({"block_out_channels": [8] * 70}, "block_out_channels: expected lists of at most 12 entries, got 70"),
        ({"sample_size": 31.5}, "sample_size: expected pixels of a side, or of height and width, got 31.5"),
    ):
        folder = write_optimum_pair(tmp_path / next(iter(fields)), **fields)
        assert refusal(folder) == f"{folder}/vae_encoder/config.json: {sentence}"
    folder = write_optimum_pair(tmp_path / "b")
    (folder / "vae_encoder" / "config.json").write_text(json.dumps({"in_channels": 3}))
    assert "expected the config of a diffusers autoencoder, got KeyError" in refusal(folder)
