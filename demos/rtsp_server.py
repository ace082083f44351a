"""A real RTSP server on this machine: a picture of the clock at rtsp://127.0.0.1:PORT/clock, a film at /film.

    /usr/bin/python3 demos/rtsp_server.py PORT [--film FILE.mp4] [--credentials USER:PASSWORD]

Runs in the system's Python, which needs Debian's gir1.2-gst-rtsp-server-1.0, python3-gi and the GStreamer
plugins base, good, bad and ugly. Prints "ready" when it listens. Each picture of /clock shows the monotonic
clock of its making in milliseconds, as 32 black and white squares: a reader sees how old and how new it is.
"""

import argparse
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

ROWS, COLS, STEP_MS = 240, 320, 40
SQUARE, SQUARES = 20, 16  # pixels of a side, in a row
BLACK, WHITE, GREY = b"\x10", b"\xeb", b"\x80"
CLOCK = (
    "( appsrc name=clock is-live=true format=time do-timestamp=true "
    f"caps=video/x-raw,format=I420,width={COLS},height={ROWS},framerate={1000 // STEP_MS}/1 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! "
    "rtph264pay name=pay0 pt=96 config-interval=1 )"
)
FILM = "( filesrc location={} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"


def clock_picture(now_ms: int) -> bytes:
    """The planes of one picture: grey, with the 32 bits of ``now_ms`` in two rows of squares at its foot."""
    rows = []
    for row in range(2):
        bits = (now_ms >> (SQUARES * row + place) & 1 for place in range(SQUARES))
        rows.append(b"".join((WHITE if bit else BLACK) * SQUARE for bit in bits) * SQUARE)
    above = GREY * (COLS * (ROWS - 2 * SQUARE))
    return above + rows[0] + rows[1] + GREY * (ROWS * COLS // 2)


def feed(factory: Any, media: Any) -> None:
    """Give every new reader group a clock of its own, as long as it is there."""
    source = media.get_element().get_by_name_recurse_up("clock")
    gone: list[Any] = []
    media.connect("unprepared", gone.append)

    def push() -> bool:
        picture = clock_picture(time.monotonic_ns() // 1_000_000 & 0xFFFFFFFF)
        # refused, and tried again, before the pipeline runs
        source.emit("push-buffer", Gst.Buffer.new_wrapped(picture))
        return not gone

    GLib.timeout_add(STEP_MS, push)


def factory_of(launch: str, credentials: str) -> Any:
    """Serves ``launch`` to all readers alike, if they know the words."""
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch)
    factory.set_shared(True)
    if credentials:
        role = "user, media.factory.access=true, media.factory.construct=true"
        factory.add_role_from_structure(Gst.Structure.new_from_string(role))
    return factory


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("port")
    parser.add_argument("--film")
    parser.add_argument("--credentials", default="")
    asked = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(asked.port)
    if asked.credentials:
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth = GstRtspServer.RTSPAuth()
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*asked.credentials.split(":", 1)), token)
        server.set_auth(auth)
    mounts = server.get_mount_points()
    clock = factory_of(CLOCK, asked.credentials)
    clock.connect("media-configure", feed)
    mounts.add_factory("/clock", clock)
    if asked.film:
        mounts.add_factory("/film", factory_of(FILM.format(asked.film), asked.credentials))
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
