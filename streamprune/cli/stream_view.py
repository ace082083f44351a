"""What ``streamprune stream`` shows on a terminal: gauges that move, the last answers, a line to type in."""

from __future__ import annotations

import time
from collections import deque
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamprune.cli.stream_report import Moment, Opened, StreamReport, figures_line, held_bytes, kept_share

if TYPE_CHECKING:
    from streamprune.cli.stream_asking import Exchange
    from streamprune.pipelines.live_stats import LiveStats
    from streamprune.readers import Health

_GAUGE_COLUMNS = 30
_ANSWERS = 5
_REDRAW_SECONDS = 0.1


class StreamView(StreamReport):
    """One panel that is drawn anew; answers, alerts and notes stay in it for a while."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._title = Text()
        self._due = 0.0
        self._said: deque[Exchange | Text] = deque(maxlen=_ANSWERS)

    def running(self) -> AbstractContextManager[Any]:
        """The part of the screen that is drawn anew."""
        return self._live

    def opened(self, opened: Opened) -> None:
        """What stands above."""
        self._title = Text(str(opened))

    def moment(self, moment: Moment) -> None:
        """Draw, if it has not just been done."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _REDRAW_SECONDS
        with self._lock:
            self._live.update(self.panel(moment), refresh=True)

    def asked(self, exchange: Exchange) -> None:
        """From now on its answer is seen growing."""
        self._keep(exchange)

    def answered(self, exchange: Exchange) -> None:
        """It is seen already."""

    def alert(self, question: str, text: str, seconds: float) -> None:
        """In a colour of its own."""
        self._keep(Text(f"{seconds:8.1f} s  {question}  {text}", style="bold yellow"))

    def note(self, kind: str, text: str, **about: Any) -> None:
        """Among the answers."""
        self._keep(Text(text, style="dim"))

    def closed(self, moment: Moment) -> None:
        """Leave the last answers and figures on the screen."""
        self._live.stop()
        self._console.print(Group(*self._answers(), Text(figures_line(moment))))

    def panel(self, moment: Moment) -> RenderableType:
        """Everything as it stands at ``moment``."""
        return Panel(
            Group(
                _rates(moment.stats, moment.health),
                _gauges(moment.stats),
                Text(),
                *self._answers(),
                Text(f"> {moment.draft}▏", style="bold"),
                Text("type a question and Enter; q and Enter ends", style="dim"),
            ),
            title=self._title,
            title_align="left",
        )

    def _keep(self, what: Exchange | Text) -> None:
        with self._lock:
            self._said.append(what)

    def _answers(self) -> list[Text]:
        return [said if isinstance(said, Text) else _answer(said) for said in self._said]


def _answer(exchange: Exchange) -> Text:
    said = (exchange.error, "red") if exchange.error else (exchange.text, "green")
    took = (f"  {exchange.ms:.0f} ms", "dim") if exchange.done else ("…", "dim")
    return Text.assemble(f"{exchange.at_seconds:8.1f} s  {exchange.question}  ", said, took)


def _rates(stats: LiveStats, health: Health | None) -> Text:
    frames = stats.frames
    parts = [f"{stats.newest_seconds or 0:.1f} s", f"{stats.fps:.1f} frames/s looked at"]
    if stats.latency_seconds is not None:
        parts.append(f"{1000 * stats.latency_seconds:.0f} ms late")
    parts.append(f"{frames.accepted} of {frames.seen} frames")
    if health is None:
        return Text("  ".join(parts))
    parts += [f"{health.fps:.1f}/s arrive", f"{health.dropped} dropped", f"{len(health.gaps)} gaps"]
    text = Text("  ".join(parts))
    if health.error:
        text.append(f"\nLOST: {health.error}", style="bold red")
    return text


def _gauges(stats: LiveStats) -> Table:
    table = Table.grid(padding=(0, 2))
    held = held_bytes(stats)
    total = sum(held.values())
    for label, share in (("kept", kept_share(stats)), ("reused", 1 - stats.tower_share)):
        table.add_row(label, _gauge(share), f"{share:.0%} of the tokens")
    table.add_row(
        "memory",
        _gauge(total / stats.memory_bytes),
        f"{total / 1e6:.1f} of {stats.memory_bytes / 1e6:.0f} MB",
    )
    for tier, nbytes in held.items():
        table.add_row(f"  {tier}", _gauge(nbytes / stats.memory_bytes), _tier(stats, tier, nbytes))
    return table


def _gauge(share: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=min(1.0, share), width=_GAUGE_COLUMNS)


def _tier(stats: LiveStats, tier: str, nbytes: int) -> str:
    text = f"{nbytes / 1e6:.1f} MB"
    report = stats.tiers.get(tier)
    if report is None or report.from_seconds is None or report.to_seconds is None:
        return text
    return f"{text}, {report.tokens} tokens of {report.from_seconds:.0f} to {report.to_seconds:.0f} s"
