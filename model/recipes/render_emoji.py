"""Rendering of colour emoji as image files: python -m model.recipes.render_emoji FONT FOLDER.

FONT is NotoColorEmoji.ttf, such as that of Debian's package fonts-noto-color-emoji (SIL Open Font License 1.1). Single
characters, those with a skin tone, and flags are written as PNG files on white, with their code points as names.
"""

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

FONT_SIZE = 109
"""The only size of the bitmaps in the font."""

WIDTH, HEIGHT = 136, 128
CHARACTERS = (*range(0x203C, 0x3300), *range(0x1F000, 0x1FB00))
SKIN_TONES = range(0x1F3FB, 0x1F400)
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)


def render_emoji(font_path: Path, folder: Path) -> int:
    """Write a PNG file for each emoji of the font, and return their number. Needs Pillow with Raqm for sequences."""
    if not features.check("raqm"):
        raise RuntimeError("expected Pillow with Raqm, which joins a character and its skin tone to one glyph")
    font = ImageFont.truetype(str(font_path), FONT_SIZE)
    folder.mkdir(parents=True, exist_ok=True)
    seen = set()
    for text in _sequences():
        if font.getbbox(text) != (0, 0, WIDTH, HEIGHT):
            continue
        picture = _render(font, text)
        if (content := hash(picture.tobytes())) not in seen:
            seen.add(content)
            picture.save(folder / f"{'-'.join(f'{ord(character):x}' for character in text)}.png")
    return len(seen)


def _sequences() -> Iterator[str]:
    """Yield the sequences that may be one glyph: longer ones are wider where the font does not join them."""
    yield from map(chr, CHARACTERS)
    yield from (chr(base) + chr(tone) for base, tone in product(CHARACTERS, SKIN_TONES))
    yield from (chr(first) + chr(second) for first, second in product(REGIONAL_INDICATORS, repeat=2))


def _render(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ImageDraw.Draw(canvas).text((WIDTH / 2, HEIGHT / 2), text, font=font, embedded_color=True, anchor="mm")
    return canvas


if __name__ == "__main__":
    print(render_emoji(Path(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201  # the output of the command
