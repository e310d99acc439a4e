"""Which errors of a download may be gone a moment later. Libraries have types of their own for them; the names of these
are what they share. A network that is not there at all is none: nobody waits for that."""

from __future__ import annotations

import errno
from collections.abc import Iterator

_NAMES = frozenset(
    {"ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "RemoteProtocolError", "ChunkedEncodingError",
     "ContentDecodingError", "IncompleteRead", "ProtocolError", "RemoteDisconnected"}
)  # fmt: skip
_CODES = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNABORTED})
TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


def is_transient(error: BaseException) -> bool:
    """Whether it, or what led to it, is a connection that broke off or a server that was overtaxed."""
    return any(_is(one) for one in _chain(error))


def _is(error: BaseException) -> bool:
    if _NAMES & {kind.__name__ for kind in type(error).__mro__}:
        return True
    if isinstance(error, OSError) and error.errno in _CODES:
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and (status == TOO_MANY_REQUESTS or status >= SERVER_ERROR)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
