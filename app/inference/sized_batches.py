"""Batches of a model of many image sizes: how many images fit into one, and which are computed in tiles."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil

from app.batching.policy import BatchPolicy
from app.batching.rows import RowBatch
from app.context import Operation
from app.errors import ContentTooLarge
from app.inference.batch_key import ModelBatchKey
from app.inference.calibration import Calibration, PixelCost, Variant
from app.inference.device import DeviceModel
from app.runtimes.torch_eager import TorchModel
from model.interface import MultipleOfFactor, TileableModel

MAX_SECONDS = 1.0
"""Longest batch: other requests, and the end of the process, wait for the batch that runs."""

CERTAIN_OVERRUN = 3.0
"""Expected over remaining seconds of a request from which it is refused.

A pixel of a small image, or beside other processes, has been measured to take twice as long.
"""

TILE_SIDES = (512, 256, 128)
"""Pixels of the side of a tile; the largest that fits into the memory is taken."""

TILED_COPIES = 6
"""Copies of the whole image in float32 that are in memory at once while it is computed in tiles."""

MAX_KEYS = 1024
"""Keys that are kept; clients choose the sizes."""

MIB = 2**20


class TilingModel(DeviceModel):
    """A model that computes images in tiles; `on_run` is called with the operation of each image."""

    def __init__(self, model: DeviceModel, compiled: TorchModel, on_run: Callable[[str], None]) -> None:
        super().__init__(compiled, model.device, model.core_usage)
        self._on_run = on_run

    def run(self, operation: str, rows: RowBatch, *, deterministic: bool, single: bool = False) -> RowBatch:
        """Compute images in tiles."""
        self._on_run(operation)
        return super().run(operation, rows, deterministic=deterministic, single=single)


class SizedBatches:
    """The batch keys of a model of many sizes, created when a size is asked for.

    Sizes that were warmed up have the batches that were measured. The batches of others follow from the time and memory
    that a pixel takes. An image that takes more memory than there is for a batch is computed in tiles if the model can.
    """

    def __init__(
        self,
        model: DeviceModel,
        calibration: Calibration,
        *,
        always_deterministic: bool,
        on_tiled: Callable[[str], None],
    ) -> None:
        self._model, self._calibration, self._always_deterministic = model, calibration, always_deterministic
        self._on_tiled = on_tiled
        rule = model.compiled.model.spec.sizes
        self._factor = rule.factor if isinstance(rule, MultipleOfFactor) else 1
        height, width = rule.default_size
        self._unit = height * width
        self._tiled_pixel = TILED_COPIES * 4 * model.compiled.model.spec.channels
        self.key = lru_cache(MAX_KEYS)(self._key)
        self._tiling = lru_cache(len(TILE_SIDES))(self._tiling_model)

    def max_untiled_pixels(self, operation: Operation) -> int | None:
        """Return the most pixels of an image that is computed without tiles; None if it is not known."""
        return self._cost(operation).pixels_in(self._calibration.memory)

    def require_memory(self, operation: Operation, size: tuple[int, int]) -> None:
        """Raise `ContentTooLarge` for images for which there is not enough memory, not even for a tile."""
        height, width = size
        pixels = height * width
        if not self._needs_tiles(operation, pixels) or self._tile_side(operation, pixels) is not None:
            return
        needed, limit = self._cost(operation).bytes_of(pixels), self._calibration.memory
        raise ContentTooLarge(
            f"images of {width} x {height} take about {needed / MIB:.0f} MiB to {operation}, more than the "
            f"{limit / MIB:.0f} MiB of the device for a batch; at most {self._max_pixels(operation)} pixels fit"
        )

    def require_time(self, operation: Operation, size: tuple[int, int], count: int, seconds: float) -> None:
        """Raise `ContentTooLarge` for images that take far longer than the `seconds` left for their request.

        Attention over all pixels is one layer, which cannot be interrupted: it must end in that time.
        """
        height, width = size
        pixels = height * width
        cost = self._time(operation, pixels)
        needed = cost.of_image(pixels) * count
        if needed > CERTAIN_OVERRUN * seconds or cost.of_attention(pixels) > seconds:
            images = f"{count} image{'s' * (count != 1)} of {width} x {height}"
            raise ContentTooLarge(
                f"{images} take about {needed:.0f} s to {operation}, more than the {seconds:.3g} s until the deadline"
            )

    def _key(self, variant: Variant) -> ModelBatchKey:
        """Return the key of a variant, which has a size."""
        operation, deterministic, size = variant
        height, width = size or (0, 0)
        pixels = height * width
        weight = max(1, ceil(pixels / self._unit))
        tiles = self._tiles(operation, pixels)
        if self._needs_tiles(operation, pixels) and tiles is not None:
            return ModelBatchKey(tiles, operation, True, weight, size, policy=self._row_policy(operation, pixels))
        one_by_one = deterministic or self._always_deterministic or operation == Operation.SCORE
        if one_by_one:
            policy = self._row_policy(operation, pixels)
            return ModelBatchKey(self._model, operation, True, weight, size, policy=policy, tiles=tiles)
        measured = self._calibration.policies.get(Variant(operation, False, size))
        rows = self._rows(operation, pixels)
        sizes = self._calibration.sizes if measured else range(1, rows + 1)
        return ModelBatchKey(
            self._model, operation, False, weight, size, sizes, measured or BatchPolicy(rows), tiles=tiles
        )

    def _cost(self, operation: Operation) -> PixelCost:
        like = Operation.RECONSTRUCT if operation in (Operation.SCORE, Operation.DEVIATIONS) else operation
        return self._calibration.pixel_costs.get(like, PixelCost())

    def _time(self, operation: Operation, pixels: int) -> PixelCost:
        """Return the cost by which images of so many pixels take time: in tiles there is none of attention over all."""
        cost = self._cost(operation)
        in_tiles = self._needs_tiles(operation, pixels) and self._tile_side(operation, pixels) is not None
        return cost._replace(growth=0.0) if in_tiles else cost

    def _needs_tiles(self, operation: Operation, pixels: int) -> bool:
        """Whether there is too little memory for an image of so many pixels as a whole."""
        max_pixels = self.max_untiled_pixels(operation)
        return max_pixels is not None and pixels > max_pixels

    def _rows(self, operation: Operation, pixels: int) -> int:
        """Return how many images of so many pixels a batch has, by its time and memory."""
        cost, most = self._time(operation, pixels), max(self._calibration.sizes)
        by_time = MAX_SECONDS / cost.of_image(pixels) if cost.seconds else most
        memory = cost.bytes_of(pixels)
        by_memory = self._calibration.memory / memory if memory else most
        return max(1, int(min(most, by_time, by_memory)))

    def _row_policy(self, operation: Operation, pixels: int) -> BatchPolicy:
        return BatchPolicy.from_row_timing(self._time(operation, pixels).of_image(pixels), 0.0, MAX_SECONDS)

    def _tile_sides(self) -> list[int]:
        """Return the sides of tiles, the largest first; none if the model computes no tiles."""
        model = self._model.compiled.model
        if not isinstance(model, TileableModel) or not model.spec.can_tile:
            return []
        return [side for side in TILE_SIDES if side % (4 * self._factor) == 0]

    def _tile_side(self, operation: Operation, pixels: int) -> int | None:
        """Return the largest side of tiles that fit into the memory beside an image; None if there is none."""
        memory, left = self._cost(operation).memory, self._calibration.memory - self._tiled_pixel * pixels
        return next((side for side in self._tile_sides() if not memory or side * side * memory <= left), None)

    def _max_pixels(self, operation: Operation) -> int:
        """Return the most pixels of an image for which there is memory, as a whole or in tiles."""
        memory, limit = self._cost(operation).memory, self._calibration.memory
        tiled = [int((limit - side * side * memory) / self._tiled_pixel) for side in self._tile_sides()]
        return max([self.max_untiled_pixels(operation) or 0, *tiled])

    def _tiles(self, operation: Operation, pixels: int) -> DeviceModel | None:
        side = self._tile_side(operation, pixels)
        return None if side is None else self._tiling(side)

    def _tiling_model(self, side: int) -> DeviceModel | None:
        model = self._model.compiled.model
        if not isinstance(model, TileableModel):
            return None
        compiled = TorchModel(model.tiled(side), self._model.device.target.for_model(model.spec))
        return TilingModel(self._model, compiled, self._on_tiled)
