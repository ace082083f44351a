"""Real servers on loopback, each for one test: TCP, UDP, RTMP, HLS, motion JPEG over HTTP and HTTPS."""

from __future__ import annotations

import io
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias

import av
from PIL import Image as PillowImage

from tests.readers.media import TS_PACKET_BYTES, picture

_POLL_SECONDS = 0.02
_FRAMES_PER_SEGMENT = 10


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody uses now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tcp_server(answers: Sequence[bytes]) -> Iterator[str]:
    """Gives every connection the next of ``answers`` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # the test is over
                with connection:
                    try:
                        connection.sendall(answer)
                    except OSError:
                        return
            listener.close()  # whoever comes now is refused and does not wait

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):  # when all have been answered it is closed
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextmanager
def udp_sender(data: bytes) -> Iterator[str]:
    """Sends ``data``, an MPEG-TS file, again and again."""
    port, over = free_port(socket.SOCK_DGRAM), threading.Event()
    size = 7 * TS_PACKET_BYTES

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while True:
                for start in range(0, len(data), size):
                    out.sendto(data[start : start + size], ("127.0.0.1", port))
                    if over.wait(0.002):
                        return

    thread = threading.Thread(target=send)
    thread.start()
    yield f"udp://127.0.0.1:{port}"
    over.set()
    thread.join()


@contextmanager
def rtmp_server(file: Path) -> Iterator[str]:
    """Plays ``file`` to the first who comes."""
    port = free_port()
    place = f"rtmp://127.0.0.1:{port}/live/x"

    def serve() -> None:
        # of all muxers only this one lets its protocol listen
        options = {"fifo_format": "flv", "format_opts": "listen=1"}
        with av.open(str(file)) as film, av.open(place, "w", format="fifo", options=options) as out:
            stream = film.streams.video[0]
            copy = out.add_stream_from_template(stream)
            for packet in film.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    out.mux(packet)

    thread = threading.Thread(target=serve)
    thread.start()
    _await_listener(port)
    yield place
    thread.join()


def _await_listener(port: int) -> None:
    """Wait for a listener that serves one connection only, so without making one."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    while wanted not in Path("/proc/net/tcp").read_text():
        time.sleep(_POLL_SECONDS)


class _Answer(BaseHTTPRequestHandler):
    """Answers with what the server's table holds for the path."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server: Any = self.server
        answer = server.answers.get(self.path.partition("?")[0], 404)
        if isinstance(answer, int):
            self.send_error(answer)
            return
        kind, body = answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if isinstance(body, bytes):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for part in [body] if isinstance(body, bytes) else body():
            self.wfile.write(part)


class _Web(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is no news


Body: TypeAlias = bytes | Callable[[], Iterator[bytes]]
Answers: TypeAlias = Mapping[str, int | tuple[str, Body]]


@contextmanager
def web_server(answers: Answers, certificate: Path | None = None) -> Iterator[str]:
    """Serves ``answers`` by path: a refusal's number, or (content type, body)."""
    server: Any = _Web(("127.0.0.1", 0), _Answer)
    server.answers = answers
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS})
    thread.start()
    yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def self_signed(folder: Path) -> Path:
    """A certificate with its key for 127.0.0.1, in one file."""
    key, certificate, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    curve = "ec_paramgen_curve:prime256v1"
    make = f"openssl req -x509 -newkey ec -pkeyopt {curve} -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        [*make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


def motion_jpeg(numbers: Callable[[], Iterator[int]]) -> tuple[str, Callable[[], Iterator[bytes]]]:
    """The pictures ``numbers`` as a camera's web page sends them."""

    def parts() -> Iterator[bytes]:
        for number in numbers():
            out = io.BytesIO()
            PillowImage.fromarray(picture(number)).save(out, "jpeg", quality=95)
            head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {out.tell()}\r\n\r\n"
            yield head.encode() + out.getvalue() + b"\r\n"

    return "multipart/x-mixed-replace; boundary=next", parts


def live_playlist(folder: Path, film: Path) -> Answers:
    """``film`` in segments, and a playlist of three of them that moves on each time it is asked for."""
    options = {"hls_time": "0.4", "hls_list_size": "0", "hls_segment_filename": str(folder / "%d.ts")}
    with (
        av.open(str(film)) as source,
        av.open(str(folder / "all.m3u8"), "w", format="hls", options=options) as out,
    ):
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    segments = sorted(folder.glob("*.ts"), key=lambda path: int(path.stem))
    turns = iter(range(len(segments) - 2))
    last = len(segments) - 3

    def playlist() -> Iterator[bytes]:
        first = next(turns, last)
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
        for path in segments[first : first + 3]:
            lines += ["#EXTINF:0.4,", f"/{path.name}?token=s3cret"]
        yield ("\n".join(lines) + "\n").encode()

    files = {f"/{path.name}": ("video/mp2t", path.read_bytes()) for path in segments}
    return {"/live.m3u8": ("application/vnd.apple.mpegurl", playlist), **files}
