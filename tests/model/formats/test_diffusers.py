"""Autoencoders of diffusers give the numbers of diffusers' own calls, from folders as diffusers writes them."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pixel_unshuffle

from app.runtimes.flops import flops_of
from model.files import CheckpointError
from model.formats import check_model, read_model
from model.interface import TileableModel
from tests.support.diffusers_models import CONFIGS, DETERMINISTIC, build, code_of, write

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("diffusers")
    return {name: write(parent / name, name) for name in CONFIGS}


@pytest.fixture
def kl(folders, tmp_path):
    """A copy of a folder, to be changed."""
    return shutil.copytree(folders["kl"], tmp_path / "kl")


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_a_model_computes_what_diffusers_computes(folders, name):
    check_model(folders[name])
    model, vae, x = read_model(folders[name]).model, build(name), torch.rand(2, 3, 64, 96)
    q, encoded = model.posterior(x), vae.encode(2 * x - 1)
    torch.testing.assert_close(q.mean, code_of(encoded))
    assert q.mean.shape[1:] == model.spec.sizes.latents_of(64, 96)
    if name in DETERMINISTIC:
        assert (q.logvar, model.spec.has_variance) == (None, False)
    else:
        torch.testing.assert_close(q.logvar, encoded.latent_dist.logvar)
    image = (vae.decode(q.mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.likelihood(q.mean).mean, image)


@pytest.mark.parametrize("options", [{"max_shard_size": "40KB"}, {"variant": "fp16"}, {}], ids=str)
def test_shards_variants_and_pipelines_are_read(tmp_path, options):
    folder = tmp_path if options else tmp_path / "vae"
    write(folder, "kl", **options)
    check_model(tmp_path)
    model = read_model(tmp_path).model
    assert (model.spec.name, model.spec.parameters) == (tmp_path.name, sum(w.numel() for w in build("kl").parameters()))
    assert torch.equal(model.vae.encoder.conv_in.weight, build("kl").encoder.conv_in.weight)


def test_the_attention_names_of_earlier_versions_are_read(kl):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(kl / WEIGHTS)
    for new, name in old.items():
        weights = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in weights.items()}
    assert any(".proj_attn." in key for key in weights)
    save_file(weights, kl / WEIGHTS, {"format": "pt"})
    torch.testing.assert_close(read_model(kl).model.vae.state_dict(), build("kl").state_dict())


@pytest.mark.parametrize("name", ["kl", "tiny", "dc"])
@torch.inference_mode()
def test_a_large_image_is_computed_in_tiles_without_a_change_of_the_model(folders, name):
    model, x = read_model(folders[name]).model, torch.rand(1, 3, 576, 64)
    assert isinstance(model, TileableModel)
    tiled, untiled = model.tiled(512 if name == "dc" else 128), model.posterior(x).mean
    mean = tiled.posterior(x).mean
    assert mean.shape == untiled.shape
    assert not torch.equal(mean, untiled)
    assert (mean - untiled).abs().mean() < 0.2 * untiled.abs().mean()
    assert tiled.likelihood(mean).mean.shape == x.shape
    assert torch.equal(model.posterior(x).mean, untiled)


def test_the_spec_has_the_scaling_of_the_config(folders):
    scaling = {name: read_model(folder).model.spec.scaling for name, folder in folders.items()}
    assert (scaling["kl"].scale, scaling["kl"].shift) == ((0.18215,), (0.0,))
    assert (scaling["kl16"].scale, scaling["kl16"].shift) == ((0.3611,), (0.1159,))
    assert scaling["kl8"].shift == (0.1,) * 8
    assert scaling["kl8"].scale == pytest.approx([0.18215 / (0.5 + n / 8) for n in range(8)])


def test_the_digest_covers_the_config_and_the_weights_that_are_read(kl, tmp_path):
    def digest() -> str:
        return read_model(kl).model.spec.digest

    plain = digest()
    changed(kl, _diffusers_version="0.0", _name_or_path="/elsewhere")
    assert digest() == plain
    changed(kl, scaling_factor=0.5)
    assert digest() not in (plain, "")
    scaled = digest()
    write(tmp_path / "other", "kl", seed=1, max_shard_size="40KB")
    for file in (tmp_path / "other").glob("*safetensors*"):  # beside the file of all weights, which diffusers ignores
        shutil.copy(file, kl)
    assert torch.equal(read_model(kl).model.vae.encoder.conv_in.weight, build("kl", 1).encoder.conv_in.weight)
    shards, sharded = sorted(kl.glob("*-of-*")), digest()
    assert sharded != scaled
    weights = load_file(shards[0])
    next(iter(weights.values())).add_(1)
    save_file(weights, shards[0], {"format": "pt"})
    assert digest() != sharded


def test_operations_are_counted_without_computing_the_model(folders):
    model = read_model(folders["kl"]).model
    encode, decode = flops_of(model)
    assert 1e6 < encode < decode
    assert not next(model.parameters()).is_meta


def test_the_scaling_of_flux_2_is_that_of_its_pipeline(tmp_path):
    vae = build("flux2")
    vae.bn.running_mean.copy_(torch.randn(128))
    vae.bn.running_var.copy_(torch.rand(128) + 0.5)
    vae.save_pretrained(tmp_path)
    scaling, z = read_model(tmp_path).model.spec.scaling, torch.randn(2, 32, 6, 4)
    patches = pixel_unshuffle(z, 2)
    mean, variance = (buffer.view(1, -1, 1, 1) for buffer in (vae.bn.running_mean, vae.bn.running_var))
    expected = (patches - mean) / torch.sqrt(variance + vae.config.batch_norm_eps)
    scaled = scaling.scaled(z.numpy())
    torch.testing.assert_close(pixel_unshuffle(torch.from_numpy(scaled), 2), expected)
    torch.testing.assert_close(torch.from_numpy(scaling.unscaled(scaled)), z)


def changed(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def without_weights(folder):
    (folder / WEIGHTS).unlink()


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")


def truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])


def of_another_config(folder):
    changed(folder, latent_channels=6)


def with_weights_missing(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["encoder.conv_in.bias"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def not_finite(folder):
    weights = load_file(folder / WEIGHTS)
    weights["encoder.conv_in.bias"].fill_(torch.nan)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def of_a_file_elsewhere(folder):
    (folder / WEIGHTS).rename(folder.parent / "other.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_weights, "expected weights in diffusion_pytorch_model"),
        (pickled, r"pickle.*from_pretrained\('.*', use_safetensors=False\); vae.save_pretrained"),
        (truncated, "not a complete safetensors file"),
        (of_a_file_elsewhere, "names of .safetensors files in this folder, got '../other.safetensors'"),
    ],
)
def test_a_folder_with_unusable_files_is_refused_before_anything_is_imported(kl, spoil, message):
    spoil(kl)
    with pytest.raises(CheckpointError, match=message):
        check_model(kl)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_config, "latent_channels|mismatched|size mismatch|shape"),
        (with_weights_missing, "missing keys.*encoder.conv_in.bias"),
        (not_finite, "encoder.conv_in.bias: expected finite numbers"),
        (lambda folder: changed(folder, _class_name="UNet2DModel"), "expected AutoencoderKL, .*got 'UNet2DModel'"),
        (lambda folder: changed(folder, in_channels=4, out_channels=4), "in_channels: expected 1 or 3, got 4"),
        (lambda folder: changed(folder, out_channels=1), "expected a decoded image of"),
        (lambda folder: changed(folder, block_out_channels="wide"), "not a config of AutoencoderKL"),
        (lambda folder: changed(folder, quantization_config={"quant_method": "x"}), "quantized weights are not served"),
        *(
            (partial(changed, **fields), f"not a config of AutoencoderKL: {message}")
            for fields, message in (
                ({"layers_per_block": 20_000}, "layers_per_block: expected at most 100 in all, got 20000"),
                ({"layers_per_block": "2"}, "layers_per_block: expected counts, got '2'"),
                ({"block_out_channels": [8] * 70}, "block_out_channels: expected lists of at most 12 entries, got 70"),
                ({"sample_size": 31.5}, "sample_size: expected pixels of a side, or of height and width, got 31.5"),
                ({"sample_size": [64, 0]}, r"sample_size: expected .*, got \[64, 0\]"),
                ({"scaling_factor": 10**400}, "scaling_factor: expected a finite number, got 1000000"),
                ({"scaling_factor": "abc"}, "scaling_factor: expected a finite number, got 'abc'"),
                ({"scaling_factor": 0}, r"scale of the latents: expected numbers of at least 1e-30, got \(0.0,\)"),
                ({"shift_factor": "x"}, "shift_factor: expected a finite number, got 'x'"),
                ({"latents_mean": [0] * 4, "latents_std": [1, 1, 1, 0]}, "latents_std: expected numbers above 0"),
                ({"latents_std": [1] * 3}, "latents_std: expected a finite number for each of 4 channels"),
                ({"latents_mean": "x"}, "latents_mean: expected a finite number for each of 4 channels, got 'x'"),
                (
                    {"latents_mean": [0] * 4, "latents_std": [1e-30] * 4, "scaling_factor": 1e20},
                    "scale of the latents: expected numbers of at most 1e",
                ),
            )
        ),
    ],
)
def test_a_folder_without_a_usable_autoencoder_is_refused(kl, spoil, message):
    spoil(kl)
    with pytest.raises(CheckpointError, match=message):
        read_model(kl)


def test_patches_and_statistics_that_flux_2_cannot_have_are_refused(tmp_path):
    folder = write(tmp_path / "flux2", "flux2")
    changed(folder, patch_size=[4])
    with pytest.raises(CheckpointError, match=r"config.json: not a config of AutoencoderKLFlux2: "):
        read_model(folder)
    changed(folder, patch_size=[2, 2])
    weights = load_file(folder / WEIGHTS)
    weights["bn.running_var"].fill_(-1)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(CheckpointError, match="scale of the latents: expected numbers of at most"):
        read_model(folder)
