"""How well the figures of /score tell other images from those of the test split, and how they are calibrated.

python -m benchmarks.anomalies --model model/checkpoints/mnist --data DIR
python -m benchmarks.anomalies --model model/checkpoints/emoji --data emoji --count 150 --others Symbola.ttf

The test split is divided into two folds. Each fold calibrates the typicality of the other one and of what is made of
it, so that every image counts once and no image is scored by itself. Areas under the ROC curve are those of the images
of both folds against as many of another kind: of the ELBO as it was (one draw, low is anomalous), of each statistic
(both tails are anomalous), and of the typicality.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from app.cli.evaluate import evaluated_images
from model.checkpoint import read_checkpoint
from model.data.arrays import Images, batches
from model.data.datasets import read_dataset
from model.data.images import fit
from model.elbo import SCORE_DRAWS, bounds
from model.elbo_percentiles import ElboPercentiles, auroc
from model.evaluation.calibration import calibrate, measure_statistics
from model.evaluation.ood import elbos, ood_datasets
from model.formats.native import NativeModel, native_model
from model.pixels import to_unit_interval
from model.recipes.render_emoji import FONT_SIZE, HEIGHT, WIDTH
from model.typicality import Typicality

Array = np.ndarray

SECOND_SPLIT = 5000
"""Images of the training split whose typicality is compared with the uniform distribution."""

SEEDS = 16

MIDDLE = 127

PICTOGRAPHS = range(0x1F300, 0x1FB00)
UNASSIGNED = "\u0378"
"""A character that no font has: it is drawn as the sign of a missing one."""


def anomalies(images: Images, seed: int = 0) -> dict[str, Images]:
    """Make images of other kinds from uint8 images [N, C, H, W], as many of each.

    What is blank or erased has the background of the images, shapes and strokes are drawn in its inverse.
    """
    rng = np.random.default_rng(seed)
    _, _, height, width = images.shape
    lower, left, background = images.copy(), images.copy(), _background(images)
    lower[:, :, height // 2 :] = background
    left[:, :, :, : width // 2] = background
    shapes = _drawn(images, lambda _: _shape(rng, height, width))
    derived = {name: np.concatenate([*found]) for name, found in ood_datasets(images, seed).items()}
    if images.shape[1] > 1:
        derived["coloured letters"] = _coloured(derived["letters"], np.random.default_rng(seed))
    return derived | {
        "blank": np.full_like(images, background),
        "lower half blank": lower,
        "left half blank": left,
        "shapes": 255 - shapes if background > MIDDLE else shapes,
        "blurred": _drawn(images, lambda image: image.filter(ImageFilter.GaussianBlur(height / 19))),
        "patch erased": np.stack([_erased(image, background, rng) for image in images]),
        "stroke added": _drawn(images, lambda image: _with_stroke(image, 255 - background, rng)),
    }


def _background(images: Images) -> int:
    """Return the commonest level at the borders of images [N, C, H, W]."""
    borders = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
    return int(np.bincount(np.concatenate([border.ravel() for border in borders])).argmax())


def other_images(path: Path, image_shape: tuple[int, ...], seed: int = 0) -> Images:
    """Read the images of a data set in random order, or draw the pictographs of a font in black on white."""
    if path.suffix in (".ttf", ".otf"):
        found = np.stack([fit(picture, image_shape) for picture in _pictographs(path)])
    else:
        dataset = read_dataset(path, image_shape)
        parts = (dataset.train, dataset.validation, dataset.test)
        found = np.concatenate([part for part in parts if part is not None])
    return found[np.random.default_rng(seed).permutation(len(found))]


def _pictographs(path: Path) -> Iterator[Image.Image]:
    font = ImageFont.truetype(path, FONT_SIZE)
    missing = bytes(font.getmask(UNASSIGNED))
    for character in map(chr, PICTOGRAPHS):
        if bytes(font.getmask(character)) not in (b"", missing):
            canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
            ImageDraw.Draw(canvas).text((WIDTH / 2, HEIGHT / 2), character, "black", font, anchor="mm")
            yield canvas


def _coloured(letters: Images, rng: np.random.Generator) -> Images:
    """Give white letters on black a random colour on white."""
    colours = rng.integers(0, 200, (len(letters), letters.shape[1], 1, 1))
    coloured: Images = (255 - letters / 255 * (255 - colours)).astype(np.uint8)
    return coloured


def _drawn(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    """Change images as Pillow's; a grey result is repeated for each channel."""
    channels = images.shape[1]
    mode = "L" if channels == 1 else "RGB"
    changed = (change(Image.fromarray(image.transpose(1, 2, 0).squeeze())).convert(mode) for image in images)
    return np.stack([np.asarray(image).reshape(*image.size[::-1], channels).transpose(2, 0, 1) for image in changed])


def _shape(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Return a filled ellipse, rectangle, triangle or shirt of a random grey."""
    image = Image.new("L", (112, 112))
    draw, grey = ImageDraw.Draw(image), int(rng.integers(120, 256))
    (x0, y0), (x1, y1) = rng.uniform(8, 40, 2), rng.uniform(72, 104, 2)
    kind = rng.integers(4)
    if kind == 0:
        draw.ellipse([x0, y0, x1, y1], fill=grey)
    elif kind == 1:
        draw.rectangle([x0, y0, x1, y1], fill=grey)
    elif kind == 2:
        draw.polygon([tuple(rng.uniform(8, 104, 2)) for _ in range(3)], fill=grey)
    else:
        sleeve = [(104, y0 + 24), (92, y0 + 40), (80, y0 + 30), (80, y1), (32, y1), (32, y0 + 30), (20, y0 + 40)]
        draw.polygon([(36, y0), (76, y0), *sleeve, (8, y0 + 24)], fill=grey)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _erased(image: Images, background: int, rng: np.random.Generator) -> Images:
    """Erase a square of a seventh of the height around a pixel that is far from the background."""
    side = max(1, image.shape[1] // 7)
    ys, xs = np.nonzero(np.abs(image.astype(int) - background).max(0) > MIDDLE)
    place = rng.integers(len(ys)) if len(ys) else 0
    y, x = (ys[place], xs[place]) if len(ys) else (side, side)
    top, left = (int(np.clip(centre - side // 2, 0, image.shape[1] - side)) for centre in (y, x))
    erased = image.copy()
    erased[:, top : top + side, left : left + side] = background
    return erased


def _with_stroke(image: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    """Draw a line of a grey level, of two pixels in 28, a quarter to a half of the width long."""
    width, height = image.size
    start, angle = rng.uniform(0.15, 0.85, 2) * (width, height), rng.uniform(0, 2 * np.pi)
    end = start + rng.uniform(0.28, 0.5) * width * np.array([np.cos(angle), np.sin(angle)])
    changed = image.copy()
    fill = (level,) * len(image.getbands())
    ImageDraw.Draw(changed).line([*start, *end], fill, width=max(1, round(height / 14)))
    return changed


class Fold:
    """The calibration by one half of the test images, applied to the other half."""

    def __init__(self, model: NativeModel, calibrating: Images, scored: Images) -> None:
        self._model = model
        self.typicality: Typicality = calibrate(model, calibrating)
        self._medians = np.median(self.typicality.knots, axis=1)
        self.images = scored

    def scores(self, images: Images) -> dict[str, Array]:
        """Return scores of images, of which the lower ones are anomalous, by name."""
        found = measure_statistics(self._model, batches(images))
        scores = {"ELBO, 1 draw": _elbo_of_one_draw(self._model, images)}
        for number, name in enumerate(self.typicality.statistics):
            knots = self.typicality.knots[number]
            place = np.searchsorted(knots, found.values[:, number]) / len(knots)
            scores[name] = -np.abs(place - 0.5)
        return scores | {"typicality": self.p_values(images, found.values, found.codes)}

    def p_values(self, images: Images, values: Array | None = None, codes: Array | None = None) -> Array:
        """Return the typicality of images; their statistics are measured unless they are given."""
        if values is None or codes is None:
            values, codes = measure_statistics(self._model, batches(images))
        return self.typicality.p_values(self.typicality.scores(values, codes))


@torch.inference_mode()
def _elbo_of_one_draw(model: NativeModel, images: Images) -> Array:
    """Return the ELBO as /score estimated it before: one draw, without a control variate."""
    generator, found = torch.Generator().manual_seed(0), []
    for levels in map(torch.tensor, batches(images)):
        x = to_unit_interval(levels)
        q = model.posterior(x)
        z = q.rsample(generator=generator)
        found.append((model.likelihood(z).log_prob(x)[0] - q.kl_to_standard()).numpy())
    return np.concatenate(found)


def kolmogorov_smirnov(p: Array) -> float:
    """Return the largest distance between the distribution of p-values [N] and the uniform one."""
    ranked, steps = np.sort(p), np.arange(len(p) + 1) / len(p)
    return float(max((steps[1:] - ranked).max(), (ranked - steps[:-1]).max()))


@torch.inference_mode()
def percentile_deviation(model: NativeModel, images: Images, draws: int) -> float:
    """Return the standard deviation of the percentile of an image over seeds, mean over images."""
    reference = ElboPercentiles.from_scores(elbos(model.vae, batches(images)), {})
    x = to_unit_interval(torch.tensor(images[:: max(1, len(images) // 200)]))
    found = []
    for seed in range(SEEDS):
        noise = torch.randn(draws, len(x), *model.spec.latent_shape, generator=torch.Generator().manual_seed(seed))
        found.append(reference.percentile(bounds(model.vae, x, draws, noise).elbo.total.numpy()))
    return float(np.std(found, axis=0, ddof=1).mean())


def areas(folds: list[Fold], count: int, others: Mapping[str, Images]) -> Mapping[str, dict[str, float]]:
    """Return the area under the ROC curve of each kind of images, by the name of the score.

    The kinds are those that are made of the images of a fold, and `others`, of which each fold has half.
    """
    normal = [fold.scores(fold.images) for fold in folds]
    kinds = [
        anomalies(fold.images[:count]) | {kind: images[number::2][:count] for kind, images in others.items()}
        for number, fold in enumerate(folds)
    ]
    found = [{kind: fold.scores(made) for kind, made in of.items()} for fold, of in zip(folds, kinds, strict=True)]
    scores = [*normal[0]]
    return {
        kind: {
            name: float(np.mean([auroc(of[name], made[kind][name]) for of, made in zip(normal, found, strict=True)]))
            for name in scores
        }
        for kind in found[0]
    }


def main(
    model: Annotated[Path, typer.Option(help="The folder of a model of vae train.")],
    data: Annotated[Path, typer.Option(help="Its data set, as for vae evaluate.")],
    others: Annotated[
        list[Path] | None, typer.Option(help="Other images: a data set, or a font of which the pictographs are drawn.")
    ] = None,
    count: Annotated[int, typer.Option(help="Images of each other kind and fold.")] = 1000,
    limit: Annotated[int, typer.Option(help="Test images; 0 for all.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Print areas under the ROC curve, distances to the uniform distribution, and deviations over seeds."""
    torch.set_num_threads(threads)
    checkpoint = read_checkpoint(model)
    vae, dataset = native_model(checkpoint), read_dataset(data, checkpoint.vae.config.image_shape)
    images, split = evaluated_images(checkpoint, data)
    order = np.random.default_rng(0).permutation(len(images))[: limit or None]
    first, second = np.array_split(images[order], 2)
    folds = [Fold(vae, first, second), Fold(vae, second, first)]
    typer.echo(f"{checkpoint.identity}, {len(order):,} images of the {split} in two folds, {count:,} others of each\n")
    found = areas(folds, count, {path.stem: other_images(path, images.shape[1:]) for path in others or ()})
    names = [*next(iter(found.values()))]
    typer.echo(f"| images | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for kind, by_name in found.items():
        typer.echo(f"| {kind} | {' | '.join(f'{by_name[name]:.3f}' for name in names)} |")
    splits = {"test images of the other fold": np.concatenate([fold.p_values(fold.images) for fold in folds])}
    if dataset.test is not None and len(dataset.train):
        training = dataset.train[:: max(1, len(dataset.train) // SECOND_SPLIT)]
        splits["training images"] = folds[0].p_values(training)
    typer.echo(
        "\n| split | images | KS distance | critical at 0.05 | at most 0.01 | at most 0.05 |\n|---|---|---|---|---|---|"
    )
    for name, p in splits.items():
        critical = 1.358 * (1 / len(p) + 1 / len(folds[0].typicality.ranks)) ** 0.5
        shares = " | ".join(f"{(p <= alpha).mean():.2%}" for alpha in (0.01, 0.05))
        typer.echo(f"| {name} | {len(p):,} | {kolmogorov_smirnov(p):.4f} | {critical:.4f} | {shares} |")
    for draws in (1, SCORE_DRAWS):
        deviation = percentile_deviation(vae, first[:2000], draws)
        typer.echo(f"\npercentile with {draws} draws: standard deviation over seeds {deviation:.2f} points", nl=False)
    typer.echo("\ntypicality: no draws, 0 over seeds")


if __name__ == "__main__":
    typer.run(main)
