"""Opens live sources: what kind of connection each takes."""

from __future__ import annotations

import threading
from dataclasses import replace

from streamprune.readers.address import Address
from streamprune.readers.av_connection import AvConnection
from streamprune.readers.connection import PacedConnection
from streamprune.readers.intake import Intake
from streamprune.readers.live import LiveSource
from streamprune.readers.live_options import LiveOptions
from streamprune.readers.options import ReadOptions
from streamprune.readers.pipe import Pipe
from streamprune.readers.source import Source


def open_live(address: Address, live: LiveOptions, options: ReadOptions) -> LiveSource:
    """Open a stream, camera or pipe and wait for its first picture; SourceError says why there is none."""
    intake = Intake(
        address.name,
        lambda seconds: AvConnection(address, replace(live, open_timeout_seconds=seconds)),
        live,
        options,
        drop=live.drop,
        returns=address.returns,
        stopped=threading.Event(),
        interrupt=address.target.interrupt if isinstance(address.target, Pipe) else None,
    )
    return LiveSource(intake, live.open_timeout_seconds + live.read_timeout_seconds)


def open_paced(source: Source, live: LiveOptions, options: ReadOptions) -> LiveSource:
    """Play ``source`` at the pace of its times; it is closed with what comes back."""
    stopped = threading.Event()
    intake = Intake(
        source.info.source,
        lambda seconds: PacedConnection(source, stopped),
        live,
        options,
        drop=live.drop or "latest",
        returns=False,
        stopped=stopped,
    )
    return LiveSource(intake, live.open_timeout_seconds)
