"""Decoding in order with several threads, and alone from the first damage on.

What a decoder makes of damage depends on its threads: they fill holes from pictures that other threads are
still drawing, and an error comes out several packets late. Intact pictures do not depend on them. So the
threads' work is taken up to the first sign of damage, and one thread repeats and goes on from there, as if it
had decoded everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from streamprune.readers.pyav_delivery import MAX_BIPREDICTED, DamageMetError, Decoded, Decoder
from streamprune.readers.pyav_packets import PacketReader
from streamprune.readers.report import ReadReport


@dataclass
class _Progress:
    """What was handed out: the last two keyframes, the pictures in all and since the last keyframe."""

    key_pts: deque[int] = field(default_factory=lambda: deque(maxlen=2))
    num_since_key: int = 0
    num_total: int = 0
    newest_pts: int | None = None

    def note(self, decoded: Decoded) -> None:
        """Count a picture that is to be handed out; one from the past is damage that no decoder reports."""
        if decoded.pts is not None:
            if self.newest_pts is not None and decoded.pts <= self.newest_pts:
                raise DamageMetError
            self.newest_pts = decoded.pts
        if decoded.picture.key_frame and decoded.pts is not None:
            self.key_pts.append(decoded.pts)
            self.num_since_key = 0
        self.num_since_key += 1
        self.num_total += 1


def decode_from(
    reader: PacketReader, report: ReadReport, start_seconds: float
) -> Generator[Decoded, None, None]:
    """Decode from the keyframe before ``start_seconds`` to the end, whatever the reader's number of threads
    with the same result."""
    _go_to(reader, start_seconds)
    if reader.num_threads == 1:
        yield from Decoder(reader, report).decode_all()
        return
    if start_seconds <= 0 or reader.clock is None:
        # A picture may come out before a thread has flagged it; errors never do. After a jump, though, intact
        # files may have pictures without their references, which would count as errors, too.
        reader.codec.options = {"err_detect": "explode"}
    progress = _Progress()
    try:
        for decoded in _settled(Decoder(reader, report, stop_at_damage=True).decode_all()):
            progress.note(decoded)
            yield decoded
    except DamageMetError:
        reader.restart(num_threads=1)
        yield from _go_on_alone(reader, report, start_seconds, progress)


def _go_to(reader: PacketReader, seconds: float) -> None:
    if seconds > 0:
        reader.seek_before(seconds)


def _settled(pictures: Iterable[Decoded]) -> Generator[Decoded, None, None]:
    """Hold back pictures that may be built on one shown later, until that one came out undamaged."""
    held: deque[Decoded] = deque()
    for decoded in pictures:
        held.append(decoded)
        while held and (not decoded.is_bipredicted or len(held) > MAX_BIPREDICTED):
            yield held.popleft()
    yield from held


def _go_on_alone(
    reader: PacketReader, report: ReadReport, start_seconds: float, progress: _Progress
) -> Generator[Decoded, None, None]:
    """Repeat silently what was handed out and go on.

    Pictures right after a keyframe may need those before it, so the repetition begins one keyframe earlier.
    """
    anchor: int | None = None
    num_known = progress.num_total
    if len(progress.key_pts) == 2 and reader.clock is not None:
        before, anchor = progress.key_pts
        num_known = progress.num_since_key
        start_seconds = reader.clock.seconds(before)
    _go_to(reader, start_seconds)
    for decoded in _decode_after(reader, report, anchor):
        if anchor is not None and decoded.pts != anchor:
            continue
        anchor = None
        if num_known > 0:
            num_known -= 1
        else:
            yield decoded


def _decode_after(
    reader: PacketReader, report: ReadReport, anchor_pts: int | None
) -> Generator[Decoded, None, None]:
    """Decode everything, but tell only of damage from the packet with the time stamp ``anchor_pts`` on."""
    decoder = Decoder(reader, report if anchor_pts is None else ReadReport())
    for packet in reader:
        if anchor_pts is not None and packet.pts is not None and packet.pts >= anchor_pts:
            decoder, anchor_pts = Decoder(reader, report), None
        yield from decoder.decode(packet)
    yield from decoder.decode(None)
