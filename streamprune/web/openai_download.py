"""Fetching a video over https, from public addresses only, within a size and a time."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from streamprune.errors import MissingDependencyError
from streamprune.web.openai_errors import ApiError, invalid, too_large

if TYPE_CHECKING:
    import httpx2

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_MOST_REDIRECTIONS = 3
_REDIRECTED = (301, 302, 303, 307, 308)


async def addresses_of(host: str, port: int) -> list[str]:
    """Every address that the name ``host`` stands for. Raises OSError or UnicodeError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def download(
    url: str,
    max_bytes: int,
    max_seconds: float,
    *,
    param: str,
    resolve: Resolve = addresses_of,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> bytes:
    """Fetch ``url``.

    A name is looked up once, and connected to is the address that was checked: a name that stands for
    another address a moment later gains nothing. Every redirection is checked like the first address, and
    may only lead to https. Proxies of the environment are not asked, as they would look names up themselves.

    Args:
        max_bytes, max_seconds: of all of it; it ends as soon as more has come or more time has passed.
        param: field of the request that named it.
        resolve: looks names up. transport: sends requests, in place of the network.

    Raises ApiError, and MissingDependencyError without httpx2.
    """
    if find_spec("httpx2") is None:
        raise MissingDependencyError.extra("httpx2", "web", "fetching videos over https")
    import httpx2

    fetching = _Fetching(param, max_bytes, resolve)
    try:
        async with (
            asyncio.timeout(max_seconds),
            httpx2.AsyncClient(
                transport=transport, trust_env=False, follow_redirects=False, timeout=max_seconds
            ) as client,
        ):
            for _ in range(_MOST_REDIRECTIONS + 1):
                data, url = await fetching.once(client, url)
                if data is not None:
                    return data
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise _unreachable(param, f"fetching it took longer than {max_seconds:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _unreachable(param, "its server cannot be reached or broke off") from error
    raise _unreachable(param, f"it is redirected more than {_MOST_REDIRECTIONS} times")


class _Fetching:
    """One download with its bounds."""

    def __init__(self, param: str, max_bytes: int, resolve: Resolve) -> None:
        self._param = param
        self._max_bytes = max_bytes
        self._resolve = resolve

    async def once(self, client: httpx2.AsyncClient, url: str) -> tuple[bytes | None, str]:
        """The bytes at ``url``, or None and where they are instead."""
        import httpx2

        host, port, address = await self._checked(url)
        at = httpx2.URL(url).copy_with(host=address, username=None, password=None, fragment=None)
        name = f"[{host}]" if ":" in host else host
        request = client.build_request(
            "GET",
            at,
            headers={"host": name if port == 443 else f"{name}:{port}", "accept-encoding": "identity"},
            # the certificate has to be that of the name
            extensions={"sni_hostname": host},
        )
        response = await client.send(request, stream=True)
        try:
            if response.status_code in _REDIRECTED and "location" in response.headers:
                return None, self._next(url, response.headers["location"])
            if response.status_code != 200:
                raise _unreachable(self._param, f"its server answers with status {response.status_code}")
            return await self._body(response), url
        finally:
            await response.aclose()

    def _next(self, url: str, location: str) -> str:
        try:
            return urljoin(url, location)
        except ValueError as error:
            raise _unreachable(self._param, "it is redirected to what is no address") from error

    async def _body(self, response: httpx2.Response) -> bytes:
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._max_bytes:
            raise self._too_large(int(announced))
        found = bytearray()
        async for chunk in response.aiter_raw():
            found += chunk
            if len(found) > self._max_bytes:
                raise self._too_large(len(found))
        return bytes(found)

    async def _checked(self, url: str) -> tuple[str, int, str]:
        """Host and port of ``url``, and one of its addresses, all of which are public."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 443
        except ValueError:
            host, port, parts = "", 443, urlsplit("")
        if parts.scheme.lower() != "https" or not host:
            raise invalid(f"{self._param}: only https addresses are fetched", self._param)
        try:
            host = host.encode("idna").decode() if not host.isascii() else host
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise _unreachable(self._param, "its host is not known") from error
        if not addresses or not all(map(is_public, addresses)):
            raise invalid(
                f"{self._param}: its host is not a public one; private, local and reserved addresses are not "
                "fetched from",
                self._param,
                "private_address",
            )
        return host, port, addresses[0]

    def _too_large(self, size: int) -> ApiError:
        return too_large(
            f"{self._param}: {size} bytes or more, of at most {self._max_bytes} for this request "
            "(--max-video-bytes)",
            self._param,
        )


def is_public(address: str) -> bool:
    """Whether ``address`` is one of the public internet, and not of this machine or its networks."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None:
            return False  # tunnels, which end wherever the address says
        if found in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast and not found.is_reserved


def _unreachable(param: str, why: str) -> ApiError:
    return ApiError(422, f"{param}: {why}", "unreachable", param)
