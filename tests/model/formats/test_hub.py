"""Models are read from the Hugging Face hub by their name."""

import shutil
from pathlib import Path

import onnx
import pytest
import torch

from model.files import CheckpointError
from model.formats import check_model, read_model
from model.formats.hub import Hub, HubName, is_hub_name, wanted_files
from tests.support.hub_server import HubServer
from tests.support.onnx_pairs import write_spatial_pair


@pytest.fixture
def server():
    with HubServer().running() as server:
        yield server


@pytest.fixture
def hub(server, tmp_path):
    return Hub(server.endpoint, tmp_path / "cache")


def test_a_model_on_the_hub_is_fetched_once_and_named_with_its_commit(server, hub, tmp_path, digits_model):
    repository = shutil.copytree(digits_model, tmp_path / "repository")
    (repository / "weights.bin").write_bytes(b"a pickle")
    (repository / "train.py").write_text("exit(1)")
    server.repositories["lab/digits"] = repository
    source = Path("hf:lab/digits")
    assert is_hub_name(source)
    check_model(source, hub)
    assert sorted(server.requested) == ["config.json", "model.safetensors"]
    spec = read_model(source, hub).model.spec
    assert len(server.requested) == 2, "the cache has them"
    commit = server.commit("lab/digits")
    assert (spec.name, spec.source) == (f"lab/digits@{commit[:12]}", f"hf:lab/digits@{commit}")
    assert spec.digest == read_model(digits_model).model.spec.digest
    assert read_model(Path(f"hf:lab/digits@{commit}"), hub).model.spec == spec


def test_the_commit_follows_the_branch_and_the_cache_serves_without_a_connection(tmp_path, digits_model):
    repository = shutil.copytree(digits_model, tmp_path / "repository")
    server, source = HubServer(), Path("hf:lab/digits@main")
    server.repositories["lab/digits"] = repository
    hub = Hub(server.endpoint, tmp_path / "cache")
    with server.running():
        first = read_model(source, hub).model.spec
        (repository / "README.md").write_text("another commit")
        second = read_model(source, hub).model.spec
    assert first.identity != second.identity
    assert read_model(source, hub).model.spec == second
    with pytest.raises(CheckpointError, match=r"hf:lab/other@main: the hub cannot be reached: .*, and the cache"):
        read_model(Path("hf:lab/other"), hub)


def test_a_pair_in_a_subfolder_is_served_with_its_weights_in_files_that_are_links_of_the_cache(server, hub, tmp_path):
    pair = write_spatial_pair(tmp_path / "repository" / "autoencoder")
    expected = read_model(pair).model
    onnx.save(
        onnx.load(pair / "encoder.onnx"),
        pair / "encoder.onnx",
        save_as_external_data=True,
        location="encoder.onnx.data",
        size_threshold=128,
    )
    server.repositories["lab/art"] = tmp_path / "repository"
    model, x = read_model(Path("hf:lab/art/autoencoder"), hub).model, torch.rand(1, 3, 8, 8)
    assert torch.equal(model.posterior(x).mean, expected.posterior(x).mean)
    assert model.encoder.weight_files.keys() == {"encoder.onnx.data"}
    assert model.spec.source.endswith("/autoencoder")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf:lab/secret", "hf:lab/secret@main: its conditions must be accepted on the hub"),
        ("hf:lab/unknown", "hf:lab/unknown@main: the hub has no such repository, or not for the token of HF_TOKEN"),
        ("hf:lab/digits@v9", "hf:lab/digits@v9: the repository has no such revision"),
        ("hf:lab/digits/vae", "hf:lab/digits@main/vae: holds no files; expected a model in safetensors or ONNX files"),
        ("hf:digits", r"expected a name on the hub like hf:ORG/NAME\[@REVISION\]\[/SUBFOLDER\], got 'hf:digits'"),
        ("hf:lab/digits/../../etc", "expected a name on the hub"),
        ("hf:lab/digits@a@b", "expected a name on the hub"),
    ],
)
def test_a_name_that_the_hub_does_not_serve_is_refused_with_the_reason(server, hub, digits_model, name, sentence):
    server.repositories["lab/digits"] = server.repositories["lab/secret"] = digits_model
    server.refused["lab/secret"] = "GatedRepo"
    with pytest.raises(CheckpointError, match=sentence):
        read_model(Path(name), hub)


W = "diffusion_pytorch_model"
CONFIG, PLAIN, HALF = "config.json", f"{W}.safetensors", f"{W}.fp16.safetensors"
SHARDS = [f"{W}-00001-of-00002.safetensors", f"{W}-00002-of-00002.safetensors", f"{W}.safetensors.index.json"]
HALF_SHARDS = [f"{W}.fp16-00001-of-00001.safetensors", f"{W}.safetensors.index.fp16.json"]
GRAPHS = [f"vae_{part}/{file}" for part in ("decoder", "encoder") for file in (CONFIG, "model.onnx", "model.onnx_data")]


@pytest.mark.parametrize(
    ("listing", "wanted"),
    [
        ([CONFIG, f"{W}.bin", PLAIN, HALF], [CONFIG, PLAIN]),
        ([CONFIG, HALF], [CONFIG, HALF]),
        ([CONFIG, *SHARDS, *HALF_SHARDS], [CONFIG, *SHARDS]),
        (["model_index.json", f"unet/{PLAIN}", f"vae/{CONFIG}", f"vae/{PLAIN}", "v1.safetensors", *GRAPHS], None),
        (["README.md", "model_index.json", *GRAPHS], GRAPHS),
        ([*GRAPHS, *(f"{GRAPHS[1]}{end}" for end in (".exe", "_data.exe", "/x", ".data/x", "2"))], GRAPHS),
    ],
)
def test_only_the_files_of_one_autoencoder_and_one_variant_are_fetched(listing, wanted):
    wanted = wanted or [f"vae/{CONFIG}", f"vae/{PLAIN}", "model_index.json"]
    assert wanted_files(HubName.parse("hf:lab/art"), listing) == wanted
    in_folder = [f"sub/{file}" for file in listing]
    assert wanted_files(HubName.parse("hf:lab/art/sub"), in_folder) == [f"sub/{file}" for file in wanted]


def test_a_revision_with_a_slash_is_written_with_its_code():
    name = HubName.parse("hf:lab/art@refs%2Fpr%2F1/vae")
    assert (name.repository, name.revision, name.subfolder) == ("lab/art", "refs/pr/1", "vae")
