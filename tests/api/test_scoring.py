"""Typicality of /score: what it answers with and without a calibration, for other sizes, and in other dialects."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from app.codecs.images import write_npy
from model.checkpoint import write_checkpoint
from model.data.arrays import batches
from model.evaluation.calibration import calibrate, measure_statistics
from model.evaluation.metrics import evaluate
from model.files import MAX_JSON
from model.formats import load, read_model
from model.statistics import statistic_names
from model.typicality import Typicality
from model.typicality_files import TYPICALITY, write_typicality
from tests.api.kserve.test_inference import infer_images
from tests.support.cli_runner import vae
from tests.support.models import DIGITS, build
from tests.support.onnx_pairs import write_spatial_pair

pytestmark = pytest.mark.anyio


async def scores(client, images, query="seed=1"):
    answer = await client.post(f"/score?{query}", content=write_npy(images.transpose(0, 2, 3, 1)))
    assert answer.status_code == 200, answer.text
    return answer.json()["scores"]


async def test_a_calibrated_model_answers_a_typicality_that_no_seed_changes(serve, calibrated_model, digits):
    async with serve(model=calibrated_model) as client:
        first, other = [await scores(client, digits[300:340], f"seed={seed}") for seed in (1, 2)]
        found = [score["typicality"] for score in first]
        assert all(0 < value <= 1 for value in found)
        assert np.mean(found) > 0.25
        assert found == [score["typicality"] for score in other]
        assert [score["elbo"] for score in first] != [score["elbo"] for score in other]
        assert "anomalous" not in first[0]
        model = (await client.get("/model")).json()
        assert model["capabilities"]["typicality"] == {"supported": True}
        assert model["scores"].endswith("; the typicality is an image's two-sided p-value among 300 digits")


async def test_alpha_marks_images_with_a_typicality_of_at_most_alpha(serve, calibrated_model, digits):
    noise = np.random.default_rng(0).integers(0, 256, (5, *digits.shape[1:]), np.uint8)
    async with serve(model=calibrated_model) as client:
        found = await scores(client, np.concatenate([digits[300:320], noise]), "alpha=0.05")
        assert [score["anomalous"] for score in found] == [score["typicality"] <= 0.05 for score in found]
        assert all(score["anomalous"] for score in found[20:])
        for wrong in ("0", "1", "nan", "-0.1", "x"):
            assert (await client.post(f"/score?alpha={wrong}", content=b"")).status_code == 422


async def test_an_alpha_that_no_typicality_reaches_is_refused(serve, calibrated_model, digits):
    smallest = read_model(calibrated_model).typicality.smallest
    noise = np.random.default_rng(0).integers(0, 256, (1, *digits.shape[1:]), np.uint8)
    async with serve(model=calibrated_model) as client:
        (found,) = await scores(client, noise, f"alpha={smallest!r}")
        assert (found["typicality"], found["anomalous"]) == (smallest, True)
        body = write_npy(noise.transpose(0, 2, 3, 1))
        refused = await client.post(f"/score?alpha={smallest / 2!r}", content=body)
        assert refused.status_code == 422
        expected, _, got = refused.json()["detail"].partition(", the smallest typicality among ")
        assert expected.startswith("alpha: expected at least 0.00")
        assert 0 <= float(expected.rpartition(" ")[2]) - smallest < 1e-5
        assert got.endswith(f"ranks, got {smallest / 2:g}")
        answer = await infer_images(client, "score", noise, parameters={"alpha": smallest / 2})
        assert answer.error.startswith("parameters.alpha: expected at least 0.00")


async def test_a_model_without_a_calibration_refuses_alpha_and_answers_no_typicality(client, digits):
    assert "typicality" not in (await scores(client, digits[:1]))[0]
    answer = await client.post("/score?alpha=0.01", content=write_npy(digits[:1, 0]))
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (
        422,
        answer.json()["type"].rpartition("/")[2],
    )
    assert "alpha: not supported by digits" in answer.json()["detail"]
    assert "vae calibrate" in (await client.get("/model")).json()["capabilities"]["typicality"]["reason"]


async def test_a_score_has_the_same_bytes_alone_and_among_others(serve, calibrated_model, digits):
    async with serve(model=calibrated_model) as client:
        together = await scores(client, digits[300:330])
        alone = [(await scores(client, digits[row : row + 1]))[0] for row in (300, 317, 329)]
    assert alone == [together[0], together[17], together[29]]


async def test_the_open_inference_protocol_has_typicality_and_anomalous(serve, calibrated_model, digits):
    async with serve(model=calibrated_model) as client:
        native = await scores(client, digits[300:304], "seed=1&alpha=0.5")
        answer = await infer_images(client, "score", digits[300:304], parameters={"seed": 1, "alpha": 0.5})
        assert {*answer.outputs} == {*native[0]}
        for name in ("typicality", "anomalous"):
            np.testing.assert_allclose(answer.outputs[name], [score[name] for score in native], rtol=1e-6)


async def test_bits_of_a_density_are_those_of_the_mass_of_levels_as_an_evaluation_has_them(serve, tmp_path):
    config, images = replace(DIGITS, likelihood="gaussian", scale=0.001), np.full((2, 1, 8, 8), 127, np.uint8)
    vae = build(config)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.zero_()  # every mean pixel is 1/2, so that the level 127 has half of the mass
    write_checkpoint(tmp_path / "narrow", config, vae.state_dict())
    async with serve(model=tmp_path / "narrow") as client:
        found = await scores(client, images)
    assert [score["bits_per_dim"] for score in found] == pytest.approx([1, 1], abs=1e-3)
    assert found[0]["bits_per_dim"] == pytest.approx(evaluate(vae, images, 8, binarize="none").bits_per_dim, rel=1e-5)


def test_a_calibration_of_other_weights_is_left_out_with_a_warning(calibrated_model):
    path = calibrated_model / TYPICALITY
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"digest": "0" * 64}))
    stored = read_model(calibrated_model)
    assert stored.typicality is None
    (warning,) = stored.warnings
    digest = load(calibrated_model).spec.digest
    assert f"expected a calibration of the weights {digest[:12]}, got one of 000000000000" in warning
    assert warning.endswith("vae calibrate measures it again; scores have no typicality")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"version": 1}', b"\x80", b"NaN"])
def test_a_damaged_calibration_is_left_out_with_a_warning(calibrated_model, content):
    (calibrated_model / TYPICALITY).write_bytes(content)
    stored = read_model(calibrated_model)
    assert stored.typicality is None
    assert TYPICALITY in stored.warnings[0]


def test_a_calibration_that_is_a_link_to_no_file_is_left_out_with_a_warning(calibrated_model):
    path = calibrated_model / TYPICALITY
    path.unlink()
    path.symlink_to(calibrated_model / "none")
    assert read_model(calibrated_model).warnings == (f"{path}: No such file or directory; scores have no typicality",)


def test_a_calibration_that_is_too_large_is_left_out_before_it_is_parsed(calibrated_model):
    with (calibrated_model / TYPICALITY).open("ab") as file:
        file.truncate(MAX_JSON + 1)
    (warning,) = read_model(calibrated_model).warnings
    assert "expected at most 4,194,304 bytes, got 4,194,305" in warning


def test_a_calibration_by_images_of_another_shape_is_left_out(calibrated_model):
    path = calibrated_model / TYPICALITY
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"image_shape": [3, 5, 5]}))
    stored = read_model(calibrated_model)
    assert stored.typicality is None
    assert "image_shape: expected one that the model takes, by default [1, 8, 8], got [3, 5, 5]" in stored.warnings[0]


@pytest.mark.parametrize(
    ("statistics", "reason"),
    [
        (["volume"], "expected statistics among reconstruction, kl"),
        (["norm", "norm"], "statistics: expected different names, got"),
    ],
)
def test_a_calibration_with_other_statistics_is_left_out(calibrated_model, statistics, reason):
    path = calibrated_model / TYPICALITY
    content = json.loads(path.read_text())
    content["statistics"][: len(statistics)] = statistics
    path.write_text(json.dumps(content))
    assert reason in read_model(calibrated_model).warnings[0]


async def test_a_calibration_of_an_earlier_version_by_fewer_statistics_is_used_as_before(
    serve, calibrated_model, digits, tmp_path
):
    model, chosen = load(calibrated_model), np.arange(300) % 2 == 0
    names, shape = statistic_names(model.spec)[:-2], model.spec.image_shape
    values, codes = measure_statistics(model, batches(digits[:400]))
    earlier = Typicality.fit(model.spec.digest, shape, names, values[:300, :-2], codes[:300], chosen)
    write_typicality(calibrated_model, earlier)
    expected = earlier.p_values(earlier.scores(values[300:, :-2], codes[300:]))
    async with serve(model=calibrated_model) as client:
        found = await scores(client, digits[300:400], "alpha=0.05")
    np.testing.assert_allclose([score["typicality"] for score in found], expected, atol=0.02)
    np.save(tmp_path / "digits.npy", digits[300:400, 0])
    arguments = ("--model", calibrated_model, "--out", tmp_path / "scores.csv")
    assert vae("score --alpha 0.05 --device cpu", tmp_path / "digits.npy", *arguments).exit_code == 0
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert [row["typicality"] for row in csv.DictReader(file)] == [str(score["typicality"]) for score in found]


async def test_a_model_without_a_density_is_calibrated_by_its_errors_for_images_of_one_size(serve, tmp_path):
    folder = write_spatial_pair(tmp_path / "pair")
    rng = np.random.default_rng(0)
    channels, height, width = load(folder).spec.image_shape
    smooth = (rng.integers(60, 190, (120, channels, 1, 1)) + np.zeros((height, width))).astype(np.uint8)
    write_typicality(folder, calibrate(load(folder), smooth[:100], "plain images"))
    noise = rng.integers(0, 256, (5, channels, height, width), np.uint8)
    async with serve(model=folder) as client:
        found = await scores(client, np.concatenate([smooth[100:], noise]), "alpha=0.1")
        typical, noisy = found[:20], found[20:]
        assert {"squared_error", "psnr", "typicality", "anomalous"} <= {*typical[0]}
        assert "elbo" not in typical[0]
        assert np.mean([score["typicality"] for score in typical]) > 0.25
        assert all(score["anomalous"] for score in noisy)
        larger = np.zeros((1, channels, 2 * height, 2 * width), np.uint8)
        assert "typicality" not in (await scores(client, larger, ""))[0]
        body = write_npy(larger.transpose(0, 2, 3, 1))
        refused = await client.post("/score?alpha=0.1", content=body)
        assert refused.status_code == 422
        expected = f"alpha: expected images of {width} x {height} pixels, for which the typicality is calibrated"
        assert refused.json()["detail"] == f"{expected}, got {2 * width} x {2 * height}"
