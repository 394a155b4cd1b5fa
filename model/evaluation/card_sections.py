"""Sections of a model card: generated ones are written again, all other text is kept."""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

TOP = ""
"""The name of the title and the paragraph below it."""

_TOP = re.compile(r".*\n*(?:(?!#).+\n?)*")
_HEADING = re.compile(r" {0,3}#{1,2}\s")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def merge_sections(generated: Mapping[str, str], before: str) -> str:
    """Return a card of generated sections, and all text of the earlier card that is in none of them.

    `generated` has the text of each section by its name, empty for one that is left out; the first is `TOP`. Other text
    stays after the section that it followed, or after the one before if that is left out.
    """
    own = dict.fromkeys(generated, "")
    place = TOP
    for name, text in _sections(before.replace("\r\n", "\n")):
        if name is None or name not in generated:
            own[place] += text
        elif generated[name]:
            place = name
    parts = (part.strip("\n") for name, text in generated.items() for part in (text, own[name]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections(card: str) -> Iterator[tuple[str | None, str]]:
    """Yield the name and the text of each part; the name is None without a heading of level 2."""
    top = found[0] if (found := _TOP.match(card)) else ""
    yield TOP, top
    lines = card.removeprefix(top).splitlines(keepends=True)
    for start, end in pairwise([0, *_headings(lines), len(lines)]):
        text = "".join(lines[start:end])
        name = text.partition("\n")[0].removeprefix("## ").strip() if text.startswith("## ") else ""
        yield name or None, text


def _headings(lines: list[str]) -> Iterator[int]:
    """Yield the places of headings of the levels 1 and 2, which fenced code has none of."""
    fence = ""
    for place, (line, following) in enumerate(zip(lines, [*lines, ""][1:], strict=True)):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        elif not fence and (_HEADING.match(line) or (line.strip() and _UNDERLINE.match(following))):
            yield place
