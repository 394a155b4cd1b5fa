"""Latents on disk are decoded, and data sets reconstructed, as the service does it; images that exist are kept."""

import io
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.datasets.decode import decode_dataset, reconstruct_dataset
from app.datasets.encode import encode_dataset
from app.datasets.image_folder import RECIPE, UNREADABLE, ImageFolder
from app.datasets.latent_encoder import seed_of
from app.datasets.options import EncodeOptions, Hardware, ImageOptions, ProgressCallback
from model.data.arrays import DataError
from model.errors import OptionsError, UserError
from tests.support.image_folders import NAMES, image, write_images, write_named
from tests.support.in_thread_server import listening

CPU = Hardware("cpu", threads=2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 10, broken=5)
    write_named(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def encoded(images: Path, colour_model: Path, tmp_path: Path) -> Path:
    encode_dataset(images, colour_model, tmp_path / "latents", EncodeOptions(samples=2, shard_size=7), CPU)
    return tmp_path / "latents"


def pixels(folder: Path) -> dict[str, np.ndarray]:
    paths = (path for path in folder.rglob("*") if path.suffix in (".png", ".webp", ".jpg"))
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in paths}


def served(model: Path, path: str, images: Path, queries: Any) -> dict[str, np.ndarray]:
    with listening(model=model, device="cpu", threads=1) as url, httpx.Client(base_url=url, timeout=60) as client:
        while client.get("/readyz").status_code != 200:
            pass
        answers = {}
        for name in NAMES:
            headers = {"accept": "application/x-npy"}
            content = (images / name).read_bytes()
            answer = client.post(path, params=queries(name), content=content, headers=headers)
            answers[name] = np.lib.format.read_array(io.BytesIO(answer.content))[0]
        return answers


@pytest.mark.parametrize("seed", [None, 3])
def test_reconstructions_are_those_of_the_service(images: Path, colour_model: Path, tmp_path: Path, seed: int | None):
    out = tmp_path / "out"
    summary = reconstruct_dataset(images, colour_model, out, hardware=CPU, seed=seed)
    assert (summary.written, summary.unreadable, summary.unchanged) == (16, 2, 0)
    assert "0/0000.png: " in (out / "unreadable.txt").read_text()
    found = pixels(out)
    expected = served(
        colour_model, "/reconstruct", images, lambda name: {} if seed is None else {"seed": seed_of(3, name)}
    )
    for name, answer in expected.items():
        np.testing.assert_array_equal(found[name if name.endswith(".png") else f"{name}.png"], answer)


def test_decoded_means_are_the_reconstructions(images: Path, encoded: Path, colour_model: Path, tmp_path: Path):
    reconstruct_dataset(images, colour_model, tmp_path / "reconstructed", hardware=CPU)
    summary = decode_dataset(encoded, colour_model, tmp_path / "decoded", hardware=CPU)
    assert (summary.written, summary.unreadable) == (16, 0)
    decoded, reconstructed = pixels(tmp_path / "decoded"), pixels(tmp_path / "reconstructed")
    assert decoded.keys() == reconstructed.keys()
    assert all(np.abs(decoded[name].astype(int) - reconstructed[name]).max() <= 1 for name in decoded)


def test_a_draw_is_decoded_when_it_is_named(encoded: Path, colour_model: Path, tmp_path: Path):
    for draw in (0, 1):
        decode_dataset(encoded, colour_model, tmp_path / str(draw), hardware=CPU, draw=draw)
    first, second = pixels(tmp_path / "0"), pixels(tmp_path / "1")
    assert any((first[name] != second[name]).any() for name in first)
    with pytest.raises(UserError, match=r"draw: expected 0 to 1, the draws in .*latents, got 2"):
        decode_dataset(encoded, colour_model, tmp_path / "2", hardware=CPU, draw=2)


def test_images_that_exist_are_kept_unless_they_are_overwritten(encoded: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    decode_dataset(encoded, colour_model, out, hardware=CPU)
    kept = out / "cat.jpg.png"
    before = kept.read_bytes()
    kept.write_bytes(b"kept")
    (out / "1" / "0001.png").unlink()
    summary = decode_dataset(encoded, colour_model, out, hardware=CPU)
    assert (summary.written, summary.unchanged, kept.read_bytes()) == (1, 15, b"kept")
    assert decode_dataset(encoded, colour_model, out, ImageOptions(overwrite=True), CPU).written == 16
    assert kept.read_bytes() == before


def test_images_of_other_options_are_not_mixed(encoded: Path, colour_model: Path, tmp_path: Path):
    decode_dataset(encoded, colour_model, tmp_path / "out", hardware=CPU)
    with pytest.raises(DataError, match=r"out: has images with draw null, got draw 1; choose"):
        decode_dataset(encoded, colour_model, tmp_path / "out", hardware=CPU, draw=1)
    with pytest.raises(
        DataError, match='with image_format "png", quality null, got image_format "jpeg", quality 90; choose'
    ):
        decode_dataset(encoded, colour_model, tmp_path / "out", ImageOptions("jpeg"), CPU)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"recipe\.json: expected an object, got list"),
        ("5", r"recipe\.json: expected an object, got int"),
        ("[" * 100_000, r"recipe\.json: not JSON: nested too deeply"),
        ("{}", 'has images with draw null, image_format null, got draw 1, image_format "png"; choose'),
        ('{"draw": 1, "image_format": "png", "quality": null, "more": 0}', "has images of another recipe"),
    ],
)
def test_a_recipe_of_another_kind_is_refused_unless_it_is_overwritten(tmp_path: Path, content: str, message: str):
    (tmp_path / RECIPE).write_text(content)
    with pytest.raises(UserError, match=message):
        ImageFolder(tmp_path, {"draw": 1})
    ImageFolder(tmp_path, {"draw": 1}, overwrite=True)
    ImageFolder(tmp_path, {"draw": 1})


def test_latents_of_another_model_are_refused(encoded: Path, digits_model: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"expected latents of digits:.*, got those of colour:"):
        decode_dataset(encoded, digits_model, tmp_path / "out", hardware=CPU)


def test_no_id_leads_out_of_the_folder(tmp_path: Path):
    (tmp_path / "out").mkdir()
    folder = ImageFolder(tmp_path / "out", {})
    names = ("../../x.png", "/etc/x.png", "//etc/x.png", "\\\\x.png", "a/../../x.png", "c:\\x.png", "a\nb.png")
    paths = [folder.path(name) for name in names]
    assert all(path.is_relative_to(tmp_path / "out") and ".." not in path.parts for path in paths)
    assert paths[-1].name == "a_b.png"


@pytest.mark.parametrize("names", [("x.jpg", "x.jpg.png"), ("a:b.png", "a_b.png"), ("x.png", "x.png/a/b.png")])
def test_ids_with_one_path_are_refused(tmp_path: Path, names: tuple[str, ...]):
    (tmp_path / "out").mkdir()
    for ordered in (names, names[::-1]):
        with pytest.raises(DataError, match="rename one of them"):
            ImageFolder(tmp_path / "out", {}).require_own_paths(ordered)
    ImageFolder(tmp_path / "out", {}).require_own_paths(["..", "x.jpg", "x.png", "x/y.png", "x.png"])


def test_images_with_one_path_are_refused_before_any_is_written(digits_model: Path, tmp_path: Path):
    for name in ("x.jpg", "x.jpg.png"):
        image(0).save(tmp_path / name)
    with pytest.raises(DataError, match=r"got x\.jpg and x\.jpg\.png"):
        reconstruct_dataset([str(tmp_path / "x.jpg*")], digits_model, tmp_path / "out", hardware=CPU)
    assert not pixels(tmp_path / "out")


@pytest.mark.parametrize("name", [RECIPE, UNREADABLE])
def test_a_folder_of_images_with_the_name_of_a_file_of_the_command_is_refused(
    digits_model: Path, tmp_path: Path, name: str
):
    (tmp_path / "images" / name).mkdir(parents=True)
    image(0).save(tmp_path / "images" / name / "a.png")
    with pytest.raises(DataError, match=rf"out/{name}: expected the file of the command, got a folder of images"):
        reconstruct_dataset(tmp_path / "images", digits_model, tmp_path / "out", hardware=CPU)
    assert not (tmp_path / "out" / name / "a.png").exists()


def test_two_runs_do_not_write_to_one_folder(images: Path, encoded: Path, colour_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    refused: list[str] = []

    def second(run: Callable[[], object]) -> Callable[[object], None]:
        def start(_: object) -> None:
            with pytest.raises(UserError) as raised:
                run()
            refused.append(str(raised.value))

        return start

    def decode(progress: ProgressCallback | None = None) -> None:
        decode_dataset(encoded, colour_model, out, hardware=CPU, progress=progress)

    decode(second(decode))
    assert set(refused) == {f"{out}: another process writes to this folder"}
    decode()
    recon, refused[:] = tmp_path / "reconstructed", []

    def reconstruct(progress: ProgressCallback | None = None) -> None:
        reconstruct_dataset(images, colour_model, recon, hardware=CPU, progress=progress)

    reconstruct(second(reconstruct))
    assert set(refused) == {f"{recon}: another process writes to this folder"}


def test_a_file_in_place_of_the_folder_is_refused(images: Path, digits_model: Path, tmp_path: Path):
    out = images / "cat.jpg"
    for run in (encode_dataset, reconstruct_dataset):
        with pytest.raises(OptionsError, match=rf"^out: expected a folder, got the file {out}$"):
            run(images / "x.tiff", digits_model, out, hardware=CPU)


def test_an_image_with_a_long_name_is_listed_as_unreadable(digits_model: Path, tmp_path: Path):
    for length in (246, 249):
        image(0).save(tmp_path / ("x" * length + ".webp"))
    out = tmp_path / "out"
    summary = reconstruct_dataset([str(tmp_path / "*.webp")], digits_model, out, hardware=CPU)
    assert (summary.written, summary.unreadable) == (1, 1)
    assert "File name too long" in (out / "unreadable.txt").read_text()


def test_a_folder_with_files_of_others_is_refused(images: Path, digits_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.jpg.png").write_bytes(b"of others")
    for options in (ImageOptions(), ImageOptions(overwrite=True)):
        with pytest.raises(OptionsError, match=r"out: expected a new or empty folder.*; .*out has 'cat\.jpg\.png'$"):
            reconstruct_dataset(images, digits_model, out, options=options, hardware=CPU)
    assert [path.name for path in out.iterdir()] == ["cat.jpg.png"]


def test_a_folder_that_a_killed_run_has_left_is_continued(images: Path, digits_model: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{RECIPE}.0123abcd.partial").write_bytes(b"{")
    assert reconstruct_dataset(images, digits_model, tmp_path / "out", hardware=CPU).written == 16


def test_a_folder_in_place_of_the_list_of_unreadable_images_is_refused(
    images: Path, digits_model: Path, tmp_path: Path
):
    reconstruct_dataset(images, digits_model, tmp_path / "out", hardware=CPU)
    (tmp_path / "out" / UNREADABLE).unlink()
    (tmp_path / "out" / UNREADABLE).mkdir()
    with pytest.raises(OptionsError, match=r"unreadable\.txt: expected a regular file"):
        reconstruct_dataset(images, digits_model, tmp_path / "out", hardware=CPU)


def test_links_in_the_folder_do_not_lead_out_of_it(images: Path, digits_model: Path, tmp_path: Path):
    out = tmp_path / "out"
    elsewhere = tmp_path / "elsewhere"
    reconstruct_dataset(images, digits_model, out, hardware=CPU)
    elsewhere.write_bytes(b"of others")
    path = out / "cat.jpg.png"
    path.unlink()
    for link in (path, path.with_name(f".{sha256(path.name.encode()).hexdigest()[:16]}.partial"), out / "new.png"):
        link.symlink_to(elsewhere)
    assert reconstruct_dataset(images, digits_model, out, options=ImageOptions(overwrite=True), hardware=CPU).written
    assert elsewhere.read_bytes() == b"of others"
    (tmp_path / "folder").mkdir()
    (images / "linked" / "below").mkdir(parents=True)
    image(3).save(images / "linked" / "below" / "x.png")
    (out / "linked").symlink_to(tmp_path / "folder")
    with pytest.raises(
        DataError, match=r"out/linked/below: expected a folder below .*out, got a link to .*folder/below"
    ):
        reconstruct_dataset(images, digits_model, out, hardware=CPU)
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_folder_below_the_source_is_refused(images: Path, encoded: Path, digits_model: Path, tmp_path: Path):
    out = images / "more" / "out"
    before = sorted(images.rglob("*"))
    for run in (encode_dataset, reconstruct_dataset):
        for source in (images, f"file://{images}", f"{images}/**/*.png", f"{images}/*", [images / "cat.jpg", images]):
            with pytest.raises(OptionsError, match=rf"^out: expected a path outside of the source .*, got {out}$"):
                run(source, digits_model, out, hardware=CPU)
    for below in (encoded, encoded / "out"):
        with pytest.raises(OptionsError, match=r"out: expected a path outside of the source .*latents"):
            decode_dataset(encoded, digits_model, below, hardware=CPU)
    assert sorted(images.rglob("*")) == before
    assert reconstruct_dataset(f"{images}/*.jpg", digits_model, images / "beside", hardware=CPU).written == 1
    assert reconstruct_dataset(f"{images}/*.jpg", digits_model, images / ".hidden", hardware=CPU).written == 1
