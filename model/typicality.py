"""Typicality of an image: a calibrated two-sided p-value under images that a model is used for.

The density of several statistics of an image is estimated over normal images: the density of states (Morningstar et
al., "Density of States Estimation for Out-of-Distribution Detection", 2021). Too high a value is as rare as too low a
one.
The score of an image is the sum of two terms, each standardised by its median and 90th percentile over the images:

    d^2 / 2        squared Mahalanobis distance of the code and the Gaussianised statistics jointly
    S log r_5      distance r_5 to the 5th nearest neighbour among the Gaussianised statistics [S]

The typicality is the rank of the score among those of other normal images, a conformal p-value (Vovk et al., 2005):

    p(x) = (1 + number of them with a score >= score(x)) / (1 + number of them)

It is uniform on unseen images of the same kind, also if the density is a poor estimate.
"""

import base64
import binascii
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray

VERSION = 1

MIN_IMAGES = 40
"""Fewest images of a calibration: half of them estimate the density, the others are its ranks."""

MAX_KNOTS, MAX_NEIGHBOURS, MAX_RANKS = 256, 2048, 2**16
"""Bounds of the arrays: quantiles of each statistic, images of the density estimate, and images that are ranks."""

MAX_STATISTICS, MAX_CODE_VALUES, MAX_TEXT = 16, 1024, 1000

NEIGHBOUR = 5

MAX_SIDE, MAX_IMAGES = 2**16, 10**9
"""Largest side of an image, and number of images, that a calibration may name."""

MAX_SCORE = 1e30
"""Highest score of an image, which is finite in float32."""

TAIL, TAIL_DEVIATIONS, LIMIT = 0.01, 2.326, 30.0
"""A statistic beyond all quantiles is continued linearly, in units of the distance from the median to the quantile of
`TAIL`, which is `TAIL_DEVIATIONS` standard deviations of a Gaussian, up to `LIMIT`."""

_ARRAYS = ("knots", "centre", "whitening", "neighbours", "scale", "ranks")


@dataclass(frozen=True)
class Typicality:
    """A density of statistics, and the scores of other images, for models of one digest and images of one shape.

    `statistics` are the names of the S statistics, `source` names the images, and `images` is their number. `knots`
    [S, Q] are quantiles of each statistic; `centre` [J + S] and `whitening` [J + S, J + S] those of code and
    statistics; `neighbours` [n, S]; `scale` [2, 2] has offset and width of each term; `ranks` [m] are rising scores.
    All are float32. An invalid value raises `ValueError`.
    """

    digest: str
    image_shape: tuple[int, ...]
    statistics: tuple[str, ...]
    source: str
    images: int
    knots: Array
    centre: Array
    whitening: Array
    neighbours: Array
    scale: Array
    ranks: Array

    def __post_init__(self) -> None:
        for name in ("digest", "source"):
            value = getattr(self, name)
            is_text = isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()
            _require(is_text, name, f"printable text of at most {MAX_TEXT} characters", value)
        names, shape = self.statistics, self.image_shape
        are_names = 0 < len(names) <= MAX_STATISTICS and _all(names, str) and len({*names}) == len(names)
        _require(are_names, "statistics", "different names", names)
        is_shape = len(shape) == 3 and _all(shape, int) and min(shape) > 0 and max(shape) <= MAX_SIDE
        _require(is_shape, "image_shape", f"C, H, W of at most {MAX_SIDE}", shape)
        is_count = type(self.images) is int and MIN_IMAGES <= self.images <= MAX_IMAGES
        _require(is_count, "images", f"at least {MIN_IMAGES} and at most {MAX_IMAGES}", self.images)
        for name in _ARRAYS:
            value = getattr(self, name)
            is_finite = value.dtype == np.float32 and bool(np.isfinite(value).all())
            _require(is_finite, name, "finite float32 numbers", value.dtype)
        self._require_shapes(len(names), self.centre.size)
        _require(bool((np.diff(self.knots) >= 0).all()), "knots", "rising numbers", "falling ones")
        _require(bool((np.diff(self.ranks) >= 0).all()), "ranks", "rising numbers", "falling ones")
        _require(bool((self.scale[:, 1] > 0).all()), "scale", "positive widths", self.scale[:, 1])

    def _require_shapes(self, count: int, joint: int) -> None:
        expected = {
            "knots": (count, _bounded(self.knots, -1, 2, MAX_KNOTS)),
            "centre": (_bounded(self.centre, 0, count, count + MAX_CODE_VALUES),),
            "whitening": (joint, joint),
            "neighbours": (_bounded(self.neighbours, 0, NEIGHBOUR + 1, MAX_NEIGHBOURS), count),
            "scale": (2, 2),
            "ranks": (_bounded(self.ranks, 0, 1, MAX_RANKS),),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            _require(found == shape, name, f"shape {shape}", found)

    @classmethod
    def fit(
        cls,
        digest: str,
        image_shape: tuple[int, ...],
        statistics: tuple[str, ...],
        values: Array,
        codes: Array,
        chosen: Array,
        source: str = "",
    ) -> "Typicality":
        """Calibrate by the statistics [N, S] and codes [N, J] of normal images.

        The `chosen` ones [N] estimate the density, the others are its ranks. Raises `ValueError` for too few of either.
        """
        count, others = int(chosen.sum()), int((~chosen).sum())
        if min(count, others) < MIN_IMAGES // 4:
            raise ValueError(f"expected at least {MIN_IMAGES} different images, got {len(values)}")
        knots = np.quantile(values[chosen], _levels(min(count, MAX_KNOTS)), axis=0).T.astype(np.float32)
        gaussian = gaussianised(values, knots)
        joint = np.concatenate([codes, gaussian], 1)[chosen]
        centre, whitening = _whitening(joint)
        neighbours = gaussian[chosen][:MAX_NEIGHBOURS].astype(np.float32)
        terms = np.stack(
            [
                np.array([_half_square(row, centre, whitening) for row in joint]),
                np.array([_log_distance(row, neighbours, NEIGHBOUR + 1) for row in gaussian[chosen]]),
            ]
        )
        middle, high = np.quantile(terms, [0.5, 0.9], axis=1)
        scale = np.stack([middle, np.maximum(high - middle, 1e-6)], 1).astype(np.float32)
        about = (digest, tuple(image_shape), statistics, _printable(source)[:MAX_TEXT], len(values))
        draft = cls(*about, knots, centre, whitening, neighbours, scale, np.zeros(1, np.float32))
        ranks = np.sort(draft.scores(values[~chosen][:MAX_RANKS], codes[~chosen][:MAX_RANKS]))
        return cls(*about, knots, centre, whitening, neighbours, scale, ranks)

    @classmethod
    def from_dict(cls, content: Any) -> "Typicality":
        """Read the JSON object that `as_dict` returns. Raises `ValueError`."""
        _require(isinstance(content, dict), "typicality", "an object", type(content).__name__)
        _require(content.get("version") == VERSION, "version", VERSION, content.get("version"))
        names = [field.name for field in fields(cls)]
        for name in names:
            _require(name in content, name, "a value", "none")
        for name in ("image_shape", "statistics"):
            _require(isinstance(content[name], list), name, "a list", type(content[name]).__name__)
        read: dict[str, Any] = {
            name: _array(name, content[name]) if name in _ARRAYS else content[name] for name in names
        }
        read |= {name: tuple(content[name]) for name in ("image_shape", "statistics")}
        return cls(**read)

    def as_dict(self) -> dict[str, Any]:
        """Return the values as a JSON object; arrays are little-endian float32 in base64."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"version": VERSION} | {
            name: _array_as_dict(value) if name in _ARRAYS else list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    @property
    def described(self) -> str:
        """The images in words, such as "10,000 images of the test split"."""
        return f"{self.images:,} {self.source or 'images'}"

    @property
    def codes(self) -> int:
        """The number J of values of a code."""
        return self.centre.size - len(self.statistics)

    @property
    def smallest(self) -> float:
        """The smallest typicality, that of an image whose score no rank reaches: 1 / (1 + m)."""
        return 1 / (1 + len(self.ranks))

    def scores(self, values: Array, codes: Array) -> Array:
        """Return how unusual images are by their statistics [N, S] and codes [N, J], float32 [N]; higher is rarer.

        Each image is computed alone, so that its score does not depend on the others.
        """
        gaussian = gaussianised(values, self.knots)
        joint = np.concatenate([codes, gaussian], 1)
        (offset, width), (other_offset, other_width) = self.scale.astype(np.float64)
        found = [
            (_half_square(both, *self._precise) - offset) / width
            + (_log_distance(row, self.neighbours, NEIGHBOUR) - other_offset) / other_width
            for both, row in zip(joint, gaussian, strict=True)
        ]
        return np.minimum(found, MAX_SCORE).astype(np.float32)

    def p_values(self, scores: Array) -> Array:
        """Return the typicality of images by their scores [N], [N] in (0, 1]."""
        below = np.searchsorted(self.ranks, scores, "left")
        shares: Array = (1 + len(self.ranks) - below) / (1 + len(self.ranks))
        return shares

    @cached_property
    def _precise(self) -> tuple[Array, Array]:
        """The centre and the whitening in float64."""
        return np.array(self.centre, np.float64), np.array(self.whitening, np.float64)


def gaussianised(values: Array, knots: Array) -> Array:
    """Map statistics [N, S] to standard normal numbers by their quantiles [S, Q], float64 [N, S]."""
    normal = np.array([*map(NormalDist().inv_cdf, _levels(knots.shape[1]))])
    columns = [_continued(column, of.astype(np.float64), normal) for column, of in zip(values.T, knots, strict=True)]
    clipped: Array = np.clip(np.stack(columns, 1), -LIMIT, LIMIT)
    return clipped


def _continued(column: Array, knots: Array, normal: Array) -> Array:
    column = column.astype(np.float64)
    low, middle, high = np.interp([TAIL, 0.5, 1 - TAIL], _levels(len(knots)), knots)
    tiny = 1e-6 * max(abs(knots[0]), abs(knots[-1]), 1e-6)
    below = np.maximum(knots[0] - column, 0) / max(middle - low, tiny)
    above = np.maximum(column - knots[-1], 0) / max(high - middle, tiny)
    continued: Array = np.interp(column, knots, normal) + TAIL_DEVIATIONS * (above - below)
    return continued


def _levels(count: int) -> Array:
    levels: Array = (np.arange(count) + 0.5) / count
    return levels


def _whitening(joint: Array) -> tuple[Array, Array]:
    """Return the mean [D] of rows [N, D], and the matrix that makes their covariance the identity.

    The covariance is shrunk towards its diagonal, more so with few rows.
    """
    count, dimensions = joint.shape
    covariance = np.cov(joint.T).reshape(dimensions, dimensions)
    variances = np.maximum(np.diag(covariance), 1e-6 * max(float(np.diag(covariance).mean()), 1e-12))
    share = dimensions / (dimensions + count)
    shrunk = (1 - share) * covariance
    np.fill_diagonal(shrunk, variances)
    return joint.mean(0).astype(np.float32), np.linalg.inv(np.linalg.cholesky(shrunk)).astype(np.float32)


def _half_square(row: Array, centre: Array, whitening: Array) -> float:
    return 0.5 * float(np.square(whitening @ (row - centre)).sum())


def _log_distance(row: Array, neighbours: Array, order: int) -> float:
    """Return S log r, with r the distance to the neighbour of this order."""
    squares = np.square(neighbours - row.astype(np.float32)).sum(1)
    nearest = np.partition(squares, order - 1)[order - 1]
    return 0.5 * row.size * float(np.log(max(nearest, 1e-12)))


def _array_as_dict(array: Array) -> dict[str, Any]:
    return {"shape": list(array.shape), "data": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _array(name: str, content: Any) -> Array:
    valid = (
        isinstance(content, dict) and isinstance(content.get("data"), str) and isinstance(content.get("shape"), list)
    )
    _require(valid, name, "an object with shape and data", type(content).__name__)
    shape = content["shape"]
    _require(len(shape) <= 2 and _all(shape, int) and min(shape, default=0) > 0, f"{name}.shape", "sizes", shape)
    try:
        found = np.frombuffer(base64.b64decode(content["data"], validate=True), "<f4").astype(np.float32)
        return found.reshape(shape)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise ValueError(f"{name}: expected float32 numbers of shape {shape} in base64: {error}") from None


def _bounded(array: Array, axis: int, least: int, most: int) -> int:
    """Return the length of an axis, or the nearest one that is allowed."""
    return min(max(array.shape[axis], least), most) if array.ndim else least


def _all(values: Any, kind: type) -> bool:
    return all(type(value) is kind for value in values)


def _require(valid: bool, name: str, expected: object, got: object) -> None:
    if not valid:
        raise ValueError(f"{name}: expected {expected}, got {str(got)[:100]}")


def _printable(text: str) -> str:
    """Return the text with a question mark for what cannot be printed, as names of files may have it."""
    return "".join(character if character.isprintable() else "?" for character in text)
