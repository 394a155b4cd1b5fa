"""The size of the images of a request: that of the model, or what the client sends or asks for. One request has one."""

from app.codecs.images import Filter
from app.errors import ContentTooLarge, UnprocessableContent
from model.interface import FixedSize, MultipleOfFactor

Size = tuple[int, int]
Rule = FixedSize | MultipleOfFactor


def resampling_of(rule: Rule) -> Filter:
    """Return the filter that resizes images; that of a model of many sizes is the one of diffusers' image processor."""
    return "bilinear" if isinstance(rule, FixedSize) else "lanczos"


def size_of_request(rule: Rule, requested: tuple[int | None, int | None], own: Size, max_pixels: int) -> Size:
    """Return the size (H, W) to which images are fitted, at most `max_pixels`.

    Each side is the one `requested`, or that of the image, `own`, down to a multiple of the model's factor. Raises
    `UnprocessableContent` for a side that the model does not take, `ContentTooLarge` for too many pixels.
    """
    if isinstance(rule, FixedSize):
        for side, wanted, only in zip(("height", "width"), requested, rule.image_size, strict=True):
            if wanted not in (None, only):
                raise UnprocessableContent(f"{side}: expected {only}, the only one that the model takes, got {wanted}")
        return rule.image_size
    for side, wanted in zip(("height", "width"), requested, strict=True):
        if wanted is not None and rule.fitted(wanted, wanted)[0] != wanted:
            allowed = f"a multiple of {rule.factor} from {rule.minimum} to {rule.maximum}"
            raise UnprocessableContent(f"{side}: expected {allowed}, got {wanted}")
    height, width = (wanted or fitted for wanted, fitted in zip(requested, rule.fitted(*own), strict=True))
    require_pixels((height, width), max_pixels)
    return height, width


def require_pixels(size: Size, max_pixels: int) -> None:
    """Raise `ContentTooLarge` for images of more than `max_pixels`."""
    height, width = size
    if height * width > max_pixels:
        raise ContentTooLarge(f"images of {width} x {height}: more than the {max_pixels} pixels allowed")
