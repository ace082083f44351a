"""The frames shown at given times, with as little decoding as will do, exactly.

Packets say when their picture is shown and whether decoding can begin there, so the plan is made from
packets:

    packets  K . . . . K . . . . K . . . K . .        K keyframe, ^ wanted time
                               ^
    decoded            K . . . .                      from the last keyframe before the wanted picture

Of the pictures before the wanted one, those no other picture refers to are not decoded either (H.264, HEVC).
Whatever goes against the plan (damage, invisible pictures) is repeated the slow way: a plan can only cost
time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from threading import Event

from streamprune.errors import SourceError
from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_delivery import MAX_BIPREDICTED, Decoded, Decoder, Delivery
from streamprune.readers.pyav_lookahead import Lookahead, Shown
from streamprune.readers.pyav_packets import FIRST_RETREAT_SECONDS, PacketReader
from streamprune.readers.pyav_probe import VideoFacts
from streamprune.readers.report import ReadReport

# Codecs whose decoder can leave out unreferenced pictures without touching the others.
SKIPPABLE_CODECS = frozenset({"h264", "hevc"})
# Compressed bytes held back while a later keyframe may still make decoding them needless.
MAX_HELD_BYTES = 8 * 2**20
# Shorter ways are read through, which costs less than a seek; without an index a seek may even lead back.
INDEXED_SEEK_SECONDS = 1.0
BLIND_SEEK_SECONDS = 4.0
MAX_FUTILE_SEEKS = 2


class TargetReader:
    """Fetches the frames shown at ascending times from one container of its own.

    Args:
        facts: of the file.
        options: how frames are delivered.
        report: counters to add to; not shared with another thread.
        num_threads: decoder threads.
        stop: when set, `fetch` gives up with an error (the caller was interrupted).
        stop_at_damage: `fetch` raises `DamageMetError` rather than go on after damage.
    """

    def __init__(
        self,
        facts: VideoFacts,
        options: ReadOptions,
        report: ReadReport,
        num_threads: int,
        stop: Event,
        *,
        stop_at_damage: bool = False,
    ) -> None:
        self._facts = facts
        self._report = report
        self._stop = stop
        self._delivery = Delivery(facts, options, report)
        self._reader = PacketReader(facts.path, facts.clock, num_threads)
        self._decoder = Decoder(self._reader, report, stop_at_damage=stop_at_damage)
        # Threads may hand out a picture as intact before the damage it is built on shows.
        self._must_settle = stop_at_damage and num_threads > 1
        self._skippable = self._reader.codec.codec.canonical_name in SKIPPABLE_CODECS
        self._futile_seeks = 0
        self._targets: Sequence[float] = ()
        self._begin_plan(0.0)

    def _begin_plan(self, position_seconds: float) -> None:
        """Forget what was planned; the reader stands at a keyframe (or at the start)."""
        self._lookahead = Lookahead(self._reader, self._facts.clock)
        self._position = position_seconds  # of the last packet pulled
        self._held: list[Shown] = []  # pulled, not yet given to the decoder
        self._held_bytes = 0
        self._must_flush = False  # packets were left out since the decoder last ran
        self._planned: list[Shown] = []  # given to the decoder and wanted
        self._awaited: set[int] = set()
        self._ready: dict[int, Frame] = {}
        self._newest_out = -(2**63)
        self._num_unsettled = 0  # pictures out whose later one, on which they may be built, is not
        self._lost_place = False
        self._current: tuple[Shown, Frame] | None = None

    def fetch(self, times_seconds: Sequence[float]) -> dict[float, Frame]:
        """Return the frame shown at each of the ascending times."""
        self._targets = times_seconds
        # Packets already pulled were judged by the targets of the call before: go back rather than miss one.
        self._lost_place |= times_seconds[0] < self._position
        return {time: self._frame_at(time) for time in times_seconds}

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

    def _frame_at(self, time: float) -> Frame:
        if self._current is not None and self._current[0].covers(time):
            return self._current[1]
        shown = next((shown for shown in self._planned if shown.covers(time)), None)
        if shown is None:
            self._move_towards(time)
            shown = self._advance_to(time)
        frame = None if shown is None else self._decode_until(shown)
        if frame is None or shown is None:
            return self._recover(time, shown)
        self._current = (shown, frame)
        return frame

    def _move_towards(self, time: float) -> None:
        """Seek if that spares reading: a keyframe lies between here and the time, and the way is long."""
        hints, gap = self._facts.keyframe_hints, time - self._position
        if self._lost_place:
            pays = True
        elif self._futile_seeks >= MAX_FUTILE_SEEKS:
            pays = False
        elif hints is None:
            pays = gap > BLIND_SEEK_SECONDS
        else:
            pays = gap > INDEXED_SEEK_SECONDS and self._keyframe_hinted(time)
        if pays:
            landed = self._reader.seek_before(time)
            self._decoder.forget()
            self._futile_seeks += landed <= self._position and not self._lost_place
            self._begin_plan(landed)

    def _keyframe_hinted(self, time: float) -> bool:
        """Whether the index has a keyframe between here and ``time``; without an index there may be one."""
        hints = self._facts.keyframe_hints
        return hints is None or bisect_right(hints, self._position) < bisect_right(
            hints, time + SAME_MOMENT_SECONDS
        )

    def _advance_to(self, time: float) -> Shown | None:
        """Pull packets up to the one on screen at ``time`` and decode it from the last keyframe on."""
        for shown in self._lookahead:
            self._check_stop()
            packet = shown.packet
            if packet.is_keyframe and shown.from_seconds <= time + SAME_MOMENT_SECONDS and self._held:
                self._held.clear()
                self._held_bytes = 0
                self._must_flush = True
            self._held.append(shown)
            self._held_bytes += packet.size
            self._position = max(self._position, shown.from_seconds)
            if shown.covers(time):
                self._feed_held()
                return shown
            if packet.dts is not None and self._facts.clock.seconds(packet.dts) > time + SAME_MOMENT_SECONDS:
                return None
            if self._held_bytes > MAX_HELD_BYTES or not self._keyframe_hinted(time):
                self._feed_held()
        return None

    def _feed_held(self) -> None:
        if self._must_flush:
            self._reader.codec.flush_buffers()
            self._decoder.forget()
            self._must_flush = False
            self._newest_out = -(2**63)
        for shown in self._held:
            self._feed(shown)
        self._held.clear()
        self._held_bytes = 0

    def _feed(self, shown: Shown) -> None:
        self._check_stop()
        place = bisect_left(self._targets, shown.from_seconds - SAME_MOMENT_SECONDS)
        wanted = place < len(self._targets) and shown.covers(self._targets[place])
        if wanted and shown.packet.pts is not None:
            self._planned.append(shown)
            self._awaited.add(shown.packet.pts)
        self._reader.codec.skip_frame = "NONREF" if self._skippable and not wanted else "DEFAULT"
        for decoded in self._decoder.decode(shown.packet):
            self._take(decoded)

    def _take(self, decoded: Decoded) -> None:
        """Keep a decoded frame if it is a wanted one; only those are converted."""
        self._num_unsettled = self._num_unsettled + 1 if self._must_settle and decoded.is_bipredicted else 0
        if decoded.pts is None:
            return
        self._newest_out = max(self._newest_out, decoded.pts)
        if decoded.pts in self._awaited:
            self._awaited.remove(decoded.pts)
            seconds = self._delivery.seconds(decoded)
            if self._delivery.usable(decoded, seconds):
                self._ready[decoded.pts] = self._delivery.deliver(decoded, seconds, 0)

    def _decode_until(self, wanted: Shown) -> Frame | None:
        """Go on decoding until the wanted frame is out (decoders hold frames back); None if it is lost."""
        pts = wanted.packet.pts
        if pts is None:
            return None
        while (pts in self._awaited and self._newest_out <= pts) or (
            0 < self._num_unsettled <= MAX_BIPREDICTED
        ):
            shown = next(self._lookahead, None)
            if shown is None:
                for decoded in self._decoder.decode(None):
                    self._take(decoded)
                break
            self._position = max(self._position, shown.from_seconds)
            self._feed(shown)
        self._planned.remove(wanted)
        return self._ready.pop(pts, None)

    def _recover(self, time: float, planned: Shown | None) -> Frame:
        """Decode everything from ever further back; take the last frame up to ``time``, or else the first."""
        retreat = 0.0
        while True:
            begin = time - retreat
            if begin > 0:
                self._reader.seek_before(begin)
            else:
                self._reader.restart()
            best, after = self._last_until(time)
            if best is not None or begin <= 0:
                break
            retreat = 2 * retreat or FIRST_RETREAT_SECONDS
        self._lost_place = True
        self._current = None
        self._planned.clear()
        chosen = best or after
        if chosen is None:
            raise self._delivery.nothing_readable()
        self._report.approximate_times += planned is not None and chosen.pts != planned.packet.pts
        return self._delivery.deliver(chosen, self._delivery.seconds(chosen), 0)

    def _last_until(self, time: float) -> tuple[Decoded | None, Decoded | None]:
        """Decode from here; return the last usable frame shown by ``time`` and the first one after it."""
        self._reader.codec.skip_frame = "DEFAULT"
        best: Decoded | None = None
        self._decoder.forget()
        for decoded in self._decoder.decode_all():
            self._check_stop()
            seconds = self._delivery.seconds(decoded)
            if not self._delivery.usable(decoded, seconds):
                continue
            if seconds > time + SAME_MOMENT_SECONDS:
                return best, decoded
            best = decoded
        return best, None

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise SourceError(f"{self._facts.path}: reading was stopped")
