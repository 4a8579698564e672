"""Where a program says how it goes: lines that stay, and on a terminal live ones."""

from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


class Screen:
    """Prints lines; on a terminal it shows something below them; a context manager.

    Args:
      console: where to print; standard output by default.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self.console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    @property
    def live(self) -> bool:
        """Whether there is a terminal to show something on."""
        return self._live.is_started

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def update(self, shown: RenderableType) -> None:
        """What the terminal shows from now on."""
        self._live.update(shown, refresh=True)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03.

    Example:
      >>> clock(3723), clock(59.6)
      ('1:02:03', '1:00')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
