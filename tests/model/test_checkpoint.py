"""Tests of writing and reading checkpoint folders, and of the errors for damaged ones."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import DEFAULT, METRICS, read_checkpoint, write_checkpoint
from model.files import CONFIG, MAX_JSON, WEIGHTS, CheckpointError, write_atomically, write_json
from model.records import Metrics
from tests.support.models import COLOUR, DIGITS, build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "digits", DIGITS, build(DIGITS).state_dict())
    return tmp_path / "digits"


def fault_of(folder: Path, name: str) -> str:
    """Return what is said of a file: metrics are left out with a warning, other files are refused."""
    try:
        (message,) = read_checkpoint(folder).warnings
    except CheckpointError as error:
        message = str(error)
    else:
        assert name == METRICS
    assert message.startswith(f"{folder / name}: ")
    return message.removeprefix(f"{folder / name}: ")


@pytest.mark.parametrize("config", [DIGITS, COLOUR])
def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, config) -> None:
    vae = build(config)
    write_checkpoint(tmp_path / "a", config, vae.state_dict())
    read = read_checkpoint(tmp_path / "a")
    assert read.vae.config == config
    assert all(weight.equal(read.vae.state_dict()[key]) for key, weight in vae.state_dict().items())
    assert read.name == "a"
    assert read.digest == hashlib.sha256((tmp_path / "a" / WEIGHTS).read_bytes()).hexdigest()


def test_a_checkpoint_is_read_in_evaluation_mode(folder: Path) -> None:
    vae = read_checkpoint(folder).vae
    assert not vae.training
    assert not any(weight.requires_grad for weight in vae.parameters())


def test_the_file_is_independent_of_the_memory_layout_of_the_weights(tmp_path: Path) -> None:
    for name, layout in (("a", torch.contiguous_format), ("b", torch.channels_last)):
        vae = build(DIGITS).to(memory_format=layout)  # type: ignore[call-overload]
        write_checkpoint(tmp_path / name, DIGITS, vae.state_dict())
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_metrics_are_read_if_they_exist(folder: Path) -> None:
    assert read_checkpoint(folder).metrics == Metrics()
    write_json(folder / METRICS, {"notes": {"epochs": []}})
    assert read_checkpoint(folder).metrics.entries == {"notes": {"epochs": []}}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_read_as_float32(folder: Path, dtype: torch.dtype) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({key: weight.to(dtype) for key, weight in weights.items()}, folder / WEIGHTS)
    assert {weight.dtype for weight in read_checkpoint(folder).vae.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named_in_the_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: No such file or directory"):
        read_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 7, 300, -1])
def test_truncated_weights_are_named_with_their_size(folder: Path, kept: int) -> None:
    content = (folder / WEIGHTS).read_bytes()[:kept]
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: not a complete safetensors file .*, {len(content)} bytes"):
        read_checkpoint(folder)


def test_a_pickle_is_not_loaded(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("the file was unpickled",)

    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_checkpoint(folder)


def test_a_missing_weight_is_named_with_its_shape(folder: Path) -> None:
    _change(folder, lambda weights: weights.pop("decoder.network.1.weight"))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: decoder.network.1.weight of shape \(24, 4\) is missing"):
        read_checkpoint(folder)


def test_an_unknown_weight_is_named(folder: Path) -> None:
    _change(folder, lambda weights: weights.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: extra is unknown to the architecture in {CONFIG}"):
        read_checkpoint(folder)


def test_a_weight_of_another_shape_is_refused_with_both_shapes(folder: Path) -> None:
    _change(folder, lambda weights: weights.update({"decoder.network.1.weight": torch.zeros(24, 5)}))
    expected = rf"decoder.network.1.weight: {CONFIG} requires shape \(24, 4\), the file has \(24, 5\)"
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    "value",
    [
        torch.full((24, 4), torch.nan),
        torch.full((24, 4), torch.nan).to(torch.float8_e4m3fn),
        torch.full((24, 4), 1e300, dtype=torch.float64),  # finite, but not in the single precision that is served
        torch.zeros(24, 4, dtype=torch.int32),
    ],
    ids=lambda value: str(value.dtype),
)
def test_weights_that_are_not_finite_or_not_floating_point_are_refused(folder: Path, value: torch.Tensor) -> None:
    _change(folder, lambda weights: weights.update({"decoder.network.1.weight": value}))
    with pytest.raises(CheckpointError, match=r"decoder.network.1.weight: expected finite floating-point numbers"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object of architecture fields, got list"),
        ("[" * 100_000, "not JSON"),
        ('{"image_shape": [1, 8, 8]}', "latent_shape is missing"),
        ('{"image_shape": [1, 8, 8], "latent_shape": [4], "depth": 3}', "unknown field 'depth'"),
        ('{"image_shape": [2, 8, 8], "latent_shape": [4]}', "image_shape: expected 1 or 3 channels"),
        ('{"image_shape": [1, 8, 8], "latent_shape": [65536, 65536, 65536], "hidden": [65536]}', "latent_shape"),
        (
            '{"image_shape": [1, 8, 8], "latent_shape": [4], "hidden": [32768, 32768, 32768]}',
            "expected at most 2,147,483,648 weights, got 4,299,751,496",
        ),
    ],
)
def test_an_invalid_config_is_refused(folder: Path, content: str, reason: str) -> None:
    (folder / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{CONFIG}: .*{reason}"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "expected an object, got list"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"evaluations": 3}', "evaluations: expected a list, got int"),
        ('{"training": {"options": 5}}', "training.options: expected an object, got int"),
    ],
)
def test_invalid_metrics_are_left_out_with_a_warning(folder: Path, content: str, reason: str) -> None:
    (folder / METRICS).write_text(content)
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.metrics, checkpoint.reference) == (Metrics(), None)
    (warning,) = checkpoint.warnings
    assert warning.startswith(f"{folder / METRICS}: {reason}")
    assert "left out" in warning


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_config_that_is_not_in_utf_8_is_refused(folder: Path, encoding: str) -> None:
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace("{", '{"é": 1,', 1), encoding)
    with pytest.raises(CheckpointError, match=rf"{CONFIG}: not JSON: expected UTF-8, got another encoding"):
        read_checkpoint(folder)


def test_a_config_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    (folder / CONFIG).write_text((folder / CONFIG).read_text(), "utf-8-sig")
    read_checkpoint(folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, METRICS])
def test_a_named_pipe_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert fault_of(folder, name).startswith("expected a regular file")


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, METRICS])
def test_a_link_to_no_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder / "none")
    assert fault_of(folder, name).startswith("No such file or directory")


@pytest.mark.parametrize("name", [CONFIG, METRICS])
def test_a_json_file_that_is_too_large_is_refused_before_it_is_parsed(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(MAX_JSON + 1)
    assert fault_of(folder, name).startswith("expected at most 4,194,304 bytes, got 4,194,305")


def test_a_damaged_evaluation_does_not_affect_the_other_entries(tmp_path: Path) -> None:
    shutil.copytree(DEFAULT, tmp_path / "mnist")
    metrics = json.loads((DEFAULT / METRICS).read_text())
    del metrics["evaluations"][0]["split"]
    write_json(tmp_path / "mnist" / METRICS, metrics)
    checkpoint, complete = read_checkpoint(tmp_path / "mnist"), read_checkpoint(DEFAULT)
    assert complete.warnings == ()
    assert checkpoint.reference == complete.reference is not None
    assert checkpoint.metrics.evaluations == complete.metrics.evaluations[1:]
    (warning,) = checkpoint.warnings
    assert warning == f"{tmp_path / 'mnist' / METRICS}: evaluations[0].split is missing; the entry is left out"


def test_metrics_of_other_weights_are_left_out_with_a_warning(folder: Path) -> None:
    reference = {"elbo": [float(n) for n in range(101)], "areas": {}}
    digest = read_checkpoint(folder).digest
    write_json(folder / METRICS, {"weights": digest, "reference": reference})
    assert read_checkpoint(folder).reference
    write_json(folder / METRICS, {"weights": "0" * 64, "reference": reference})
    checkpoint = read_checkpoint(folder)
    assert (checkpoint.reference, checkpoint.metrics) == (None, Metrics())
    (warning,) = checkpoint.warnings
    assert f"the file describes the weights 000000000000, not {digest[:12]}" in warning


def test_an_atomic_write_replaces_the_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "a", content)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"second")]


def test_json_is_written_indented(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2.5]}
    assert (tmp_path / "a.json").read_text().count("\n") > 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_that_is_not_finite_is_refused_and_the_file_is_unchanged(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(CheckpointError, match=r"a\.json: expected finite numbers"):
        write_json(tmp_path / "a.json", {"elbo": [value]})
    assert json.loads((tmp_path / "a.json").read_text()) == 1


def _change(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
