"""`vae calibrate` and `vae score`: from normal images to a table that equals the answers of the service."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.cli.score import ANOMALOUS, ScoreOptions
from app.codecs.images import write_npy
from model.errors import OptionsError
from model.typicality_files import TYPICALITY
from tests.support.cli_runner import refusal, vae


@pytest.fixture
def normal(tmp_path: Path, digits: np.ndarray) -> Path:
    """A folder with the image files of 120 digits."""
    folder = tmp_path / "normal"
    folder.mkdir()
    for number, image in enumerate(digits[:120, 0]):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def mixed(tmp_path: Path, digits: np.ndarray) -> Path:
    """An array of 30 digits and 10 images of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (10, *digits.shape[2:]), np.uint8)
    np.save(tmp_path / "mixed.npy", np.concatenate([digits[200:230, 0], noise]))
    return tmp_path / "mixed.npy"


@pytest.fixture
def model(digits_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_model, tmp_path / "digits"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.anyio
async def test_normal_images_calibrate_a_model_and_its_scores_are_those_of_the_service(
    serve, model: Path, normal: Path, mixed: Path, tmp_path: Path
) -> None:
    result = vae("calibrate", "--model", model, "--data", normal)
    assert result.exit_code == 0, result.output
    assert "by 120 images" in result.stdout
    assert json.loads((model / TYPICALITY).read_text())["source"] == "images of normal"
    out = tmp_path / "scores.csv"
    result = vae("score --alpha 0.05 --seed 3 --device cpu", mixed, "--model", model, "--out", out)
    assert result.exit_code == 0, result.output
    table = rows(out)
    assert [row["path"] for row in table] == [f"mixed.npy/{row}" for row in range(40)]
    async with serve(model=model) as client:
        body = write_npy(np.load(mixed)[..., None])
        answer = (await client.post("/score?alpha=0.05&seed=3", content=body)).json()["scores"]
    for row, score in zip(table, answer, strict=True):
        assert {name: row[name] for name in score} == {name: str(value) for name, value in score.items()}
    assert all(row["anomalous"] == "True" for row in table[30:])
    assert "0 to 0.1" in result.stdout
    for name in ("least", "most"):
        with Image.open(tmp_path / f"scores.csv.{name}.png") as picture:
            assert picture.size == (56, 48)


def test_a_data_set_with_too_many_anomalous_images_has_an_exit_code_of_its_own(
    calibrated_model: Path, mixed: Path, tmp_path: Path
) -> None:
    line = "score --alpha 0.05 --device cpu --fail-above"
    paths = (mixed, "--model", calibrated_model, "--out", tmp_path / "scores.csv")
    assert vae(f"{line} 0.9", *paths).exit_code == 0
    failed = vae(f"{line} 0.1", *paths)
    assert failed.exit_code == ANOMALOUS
    assert "more than 10.00% of the images are anomalous" in failed.stderr
    assert len(rows(tmp_path / "scores.csv")) == 40


def test_files_that_cannot_be_read_have_a_row_with_the_reason(
    calibrated_model: Path, normal: Path, tmp_path: Path
) -> None:
    (normal / "005.png").write_bytes(b"no image")
    result = vae("score --device cpu", normal, "--model", calibrated_model, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 3, result.output
    table = rows(tmp_path / "scores.csv")
    assert len(table) == 120
    assert (table[-1]["path"], table[-1]["elbo"]) == ("005.png", "")
    assert table[-1]["error"]
    assert "005.png: left out" in result.stderr


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_replaced_when_the_new_one_is_complete(
    calibrated_model: Path, mixed: Path, tmp_path: Path, suffix: str
) -> None:
    out, opened_before = (tmp_path / f"{name}{suffix}" for name in ("scores", "before"))
    out.write_bytes(b"the table of an earlier run")
    opened_before.hardlink_to(out)
    assert vae("score --device cpu", mixed, "--model", calibrated_model, "--out", out).exit_code == 0
    assert opened_before.read_bytes() == b"the table of an earlier run"
    assert out.read_bytes() != b"the table of an earlier run"
    assert not list(tmp_path.glob("*.partial"))


def test_a_table_in_parquet_has_the_same_rows(calibrated_model: Path, mixed: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra datasets is not installed")
    for suffix in ("csv", "parquet"):
        out = tmp_path / f"scores.{suffix}"
        assert vae("score --device cpu", mixed, "--model", calibrated_model, "--out", out).exit_code == 0
    table = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [str(row["elbo"]) for row in table] == [row["elbo"] for row in rows(tmp_path / "scores.csv")]


@pytest.mark.parametrize("name", ["scores.csv", "scores.csv.least.png", "scores.csv.most.png"])
def test_a_folder_under_the_name_of_an_output_is_refused_before_the_scoring(
    model: Path, mixed: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    message = refusal(vae("score --device cpu", mixed, "--model", model, "--out", tmp_path / "scores.csv"))
    assert message == f"--out: {tmp_path / name}: expected a regular file"
    assert [path.name for path in tmp_path.glob("scores*")] == [name]


def test_the_python_api_names_its_parameter() -> None:
    with pytest.raises(OptionsError, match=r"^fail_above: expected a share from 0 to 1 together with alpha, got 0.1$"):
        ScoreOptions(fail_above=0.1)


def test_options_that_do_not_fit_are_refused(
    model: Path, calibrated_model: Path, mixed: Path, normal: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "scores.csv")
    refusals = {
        "--out: expected a file .csv or .parquet": ("score", mixed, "--model", model, "--out", tmp_path / "scores.txt"),
        "--alpha: not supported by digits": ("score --alpha 0.1", mixed, "--model", model, *out),
        "--alpha: expected a number between 0 and 1": ("score --alpha 1.5", mixed, "--model", calibrated_model, *out),
        "--fail-above: expected a share": ("score --fail-above 0.1", mixed, "--model", calibrated_model, *out),
        "--alpha: expected at least 0.00": ("score --alpha 1e-6", mixed, "--model", calibrated_model, *out),
        "--seed: expected 0 to 9223372036854775807, got -1": ("score --seed=-1", mixed, "--model", model, *out),
        "--limit: expected 0 or more images, got -1": ("score --limit=-1", mixed, "--model", model, *out),
        "--out: expected a file in a folder that exists": ("score", mixed, "--model", model, "--out", "none/s.csv"),
        "--limit: expected 0 or more images, got -5": ("calibrate --limit=-5", "--model", model, "--data", normal),
        f"--out: expected a path outside of the source {normal}, got {normal / 's.csv'}": (
            *("score", normal, "--model", model, "--out", normal / "s.csv"),
        ),
        f"--out: expected a path outside of the source {normal}/*, got {normal / 's.csv'}": (
            *("score", f"{normal}/*", "--model", model, "--out", normal / "s.csv"),
        ),
        "--fit: expected resize": ("score --fit other", mixed, "--model", calibrated_model, *out),
        "no such file or folder": ("score", tmp_path / "none", "--model", calibrated_model, *out),
        "got a name on the hub": ("calibrate", "--model", "hf:one/two", "--data", normal),
        "at least 40 different images": ("calibrate --limit 10", "--model", model, "--data", tmp_path / "ten.npy"),
    }
    np.save(tmp_path / "ten.npy", np.load(mixed)[:10])
    for expected, (line, *words) in refusals.items():
        assert expected in refusal(vae(line, *words))
