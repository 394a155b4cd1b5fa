"""Reading of folders of image files: splits, class folders, image shape, unreadable files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from model.data.arrays import CheckOutline, DataError, Dataset, Images, Outline
from model.data.images import fit, upright_size
from model.errors import OptionsError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
SPLITS = {"train": ("train",), "validation": ("val", "validation", "valid"), "test": ("test",)}
"""Names of the folders of each split."""

MAX_SIDE = 64
"""Largest height and width that are chosen from image files."""

SAMPLED_FILES = 32
"""Number of files of which one with colours shows that the images are in colour, before all are read."""

SKIPPED_SHARE = 0.05
SKIPPED_FILES = 10
"""Unreadable files are skipped up to the larger of this share and this number of files."""


@dataclass
class _Skipped:
    """Unreadable files of a folder, each with the reason; too many raise `DataError`."""

    folder: Path
    files: int
    reasons: list[str] = field(default_factory=list)

    @contextmanager
    def unreadable(self, path: Path) -> Iterator[None]:
        """Record the file if the block fails to read it."""
        try:
            yield
        except UnidentifiedImageError:
            self._add(f"{path}: expected an image file, got {path.stat().st_size} bytes of another format")
        except Exception as error:  # noqa: BLE001  # Pillow's parsers raise many types of exceptions
            self._add(f"{path}: the image file is damaged: {error}")

    def _add(self, reason: str) -> None:
        self.reasons.append(reason)
        if len(self.reasons) == self.files or len(self.reasons) > max(SKIPPED_FILES, SKIPPED_SHARE * self.files):
            raise DataError(f"{reason} ({len(self.reasons)} of {self.files} files in {self.folder} cannot be read)")


def read_image_folder(folder: Path, image_shape: tuple[int, ...] | None, check: CheckOutline | None = None) -> Dataset:
    """Read the image files below a folder, which may have a folder for each split and for each class.

    Without an `image_shape` (C, H, W) it follows from the files. Unreadable files are skipped up to a limit. `check` is
    called when some files are read. Raises `DataError`.
    """
    splits = _split_folders(folder)
    paths = {name: _image_paths(split) for name, split in splits.items()}
    skipped = _Skipped(folder, sum(map(len, paths.values())))
    shape, reason = (image_shape, "") if image_shape else _choose_shape(paths["train"], _Skipped(folder, skipped.files))
    if check:
        known = image_shape or (3 if _has_colour(paths["train"], shape) else 1, *shape[1:])
        check(Outline(known, len(paths["train"]), "validation" in paths))
    read = {name: _read_images(of_split, shape, skipped) for name, of_split in paths.items()}
    if image_shape is None and all(_is_grey(images) for images, _ in read.values()):
        read = {name: (np.ascontiguousarray(images[:, :1]), kept) for name, (images, kept) in read.items()}
        reason = reason.replace("colour", "grey, as all images are", 1)
    images = {name: found for name, (found, _) in read.items()}
    return Dataset(
        "image files",
        images["train"],
        images.get("test"),
        images.get("validation"),
        labels=_class_names(splits["train"], read["train"][1]),
        skipped=tuple(dict.fromkeys(skipped.reasons)),
        shape_reason=reason,
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folder of each split; the folder itself is the training split if it has no `train`."""
    if not (folder / "train").is_dir():
        return {"train": folder}
    found = {split: [folder / name for name in names if (folder / name).is_dir()] for split, names in SPLITS.items()}
    return {split: folders[0] for split, folders in found.items() if folders}


def _image_paths(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: expected MNIST files or image files ({', '.join(sorted(SUFFIXES))}), got none")
    return paths


def _class_names(folder: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """The class of each image: its folder, if all images are in two or more folders (the layout of ImageFolder)."""
    parts = [path.relative_to(folder).parts for path in paths]
    names = tuple(part[0] for part in parts if len(part) > 1)
    return names if len(names) == len(paths) and len(set(names)) > 1 else ()


def _choose_shape(paths: Sequence[Path], skipped: _Skipped) -> tuple[tuple[int, ...], str]:
    """Choose the shape in colour from the commonest size, and say why."""
    sizes: Counter[tuple[int, int]] = Counter()
    for path in paths:
        with skipped.unreadable(path), Image.open(path) as image:
            sizes[upright_size(image)] += 1
    (width, height), count = sizes.most_common(1)[0]
    factor = min(1.0, MAX_SIDE / max(height, width))
    step = 8 if max(height, width) >= 32 else 4 if max(height, width) >= 16 else 2
    sides = [max(step, int(side * factor / step + 0.5) * step) for side in (height, width)]
    limit = f" and at most {MAX_SIDE} pixels a side" if factor < 1 else ""
    common = f"the size of {count} of {sum(sizes.values())} images is {width}x{height}"
    return (3, *sides), f"colour; {common}; multiples of {step}{limit}"


def _read_images(
    paths: Sequence[Path], image_shape: tuple[int, ...], skipped: _Skipped
) -> tuple[Images, tuple[Path, ...]]:
    """Return the images, and the paths of those that could be read."""
    images = _allocate((len(paths), *image_shape))
    kept: list[Path] = []
    for path in paths:
        with skipped.unreadable(path), Image.open(path) as image:
            images[len(kept)] = fit(image, image_shape)
            kept.append(path)
    if not kept:
        raise DataError(f"{skipped.folder}: no image file of a split can be read: {skipped.reasons[-1]}")
    return images[: len(kept)], tuple(kept)


def _allocate(shape: tuple[int, ...]) -> Images:
    try:
        return np.empty(shape, np.uint8)
    except (MemoryError, ValueError):
        gib = prod(shape) / 2**30
        raise OptionsError(
            f"image_shape: {shape[0]} images of {list(shape[1:])} take {gib:.0f} GiB of memory"
        ) from None


def _has_colour(paths: Sequence[Path], image_shape: tuple[int, ...]) -> bool:
    """Whether one of some files, from all over the folder, has colours."""
    for path in paths[:: ceil(len(paths) / SAMPLED_FILES)]:
        with suppress(Exception), Image.open(path) as image:  # unreadable files are counted when all are read
            if not _is_grey(fit(image, image_shape)[np.newaxis]):
                return True
    return False


def _is_grey(images: Images) -> bool:
    return all(bool((image[0] == image[1]).all() and (image[0] == image[2]).all()) for image in images)
