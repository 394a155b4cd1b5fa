"""Budget of time of a training: the number of its epochs follows from the time that is left after each."""

from time import perf_counter

SMOOTHING = 0.3
"""Weight of the last epoch in the average of the time that an epoch takes."""


class TimeBudget:
    """The time until which a training should end; create it when the first epoch starts.

    `spent` are seconds of the budget that reading the data took.
    """

    def __init__(self, seconds: float, spent: float = 0.0) -> None:
        self._last = perf_counter()
        self._end = self._last + seconds - spent
        self._pace: float | None = None

    def epochs_after(self, done: int) -> int:
        """Return the number of epochs in all that end in time, after `done` of them; call it after each epoch."""
        now = perf_counter()
        took, self._last = now - self._last, now
        self._pace = took if self._pace is None else (1 - SMOOTHING) * self._pace + SMOOTHING * took
        return done + max(0, int((self._end - now) / self._pace))
