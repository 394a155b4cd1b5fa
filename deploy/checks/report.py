"""What was checked, as a table: requests sent, answered, refused, lost, wrong, and what else was seen."""

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from traffic import Tally

COLUMNS = ("check", "", "sent", "answered", "refused", "lost", "wrong", "seen")


@dataclass
class Report:
    """Rows that are printed as they come; `failed` counts those that were not as expected."""

    failed: int = 0
    console: Console = field(default_factory=lambda: Console(width=150))
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def fact(self, check: str, seen: object, *, good: bool) -> None:
        """Something looked at."""
        self._add(check, good, ("", "", "", "", ""), str(seen))

    def traffic(self, check: str, tally: Tally, seen: object = "", *, refusals: bool = False) -> None:
        """Traffic that flowed meanwhile: nothing may be lost or wrong, and nothing refused unless `refusals` may be."""
        good = tally.answered > 0 and not tally.lost and not tally.wrong and (refusals or not tally.refused)
        counts = (tally.sent, tally.answered, tally.refused, len(tally.lost), len(tally.wrong))
        causes = [f"{number} x {cause}" for cause, number in Counter([*tally.lost.values(), *tally.wrong]).items()]
        self._add(check, good, tuple(map(str, counts)), "; ".join([str(seen), *causes] if seen else causes))

    def print(self) -> None:
        """The whole table."""
        table = Table(*COLUMNS)
        for row in self.rows:
            table.add_row(*row)
        self.console.print(table)

    def _add(self, check: str, good: bool, counts: tuple[str, ...], seen: str) -> None:
        self.failed += not good
        self.rows.append((check, "ok" if good else "FAILED", *counts, seen))
        self.console.print(" ".join(part for part in self.rows[-1] if part), markup=False)
