"""A clock that stands still until a test moves it."""


class Clock:
    """Seconds; a test sets `now`."""

    now = 100.0

    def __call__(self) -> float:
        return self.now
