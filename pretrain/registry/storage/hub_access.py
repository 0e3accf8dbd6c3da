"""Use the cache of the Hugging Face hub where the hub cannot be reached. Imports no torch.

The hub's client retries for a minute and prints a line each time, even where the hub's name cannot
be resolved or nothing answers at its address.
"""

import errno
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from huggingface_hub import constants

_TIMEOUT = 10.0  # seconds to connect, as the client's; a slow answer is left to the client
_RETRY_DELAY = 1.0  # seconds; a failure that took longer has been retried by the system
# Unreachable; anything else (slow, certificates, any HTTP status) means that a server answers.
_UNREACHABLE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


@contextmanager
def hub_or_cache() -> Iterator[str]:
    """Inside, the client uses only its cache if the hub is unreachable; yields the reason or ""."""
    if constants.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    error = _connection_error()
    if error is None:
        yield ""
        return
    # The client reads the variable HF_HUB_OFFLINE into this when it is imported.
    constants.HF_HUB_OFFLINE = True
    try:
        yield f"{constants.ENDPOINT} cannot be reached ({error.strerror or error})"
    finally:
        constants.HF_HUB_OFFLINE = False


def _connection_error() -> OSError | None:
    """Why the hub is unreachable; None where it may be reachable."""
    proxies = urllib.request.getproxies()
    if "all" in proxies or any(url.lower().startswith("socks") for url in proxies.values()):
        return None  # the client supports these proxies, urllib does not
    began = time.monotonic()
    found = _try_once()
    if found is None or time.monotonic() - began > _RETRY_DELAY:
        return found
    time.sleep(_RETRY_DELAY)
    return _try_once()


def _try_once() -> OSError | None:
    """Connect as the client does, through the proxies of the environment."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            return None
    except urllib.error.HTTPError as error:  # an answer
        error.close()
        return None
    except urllib.error.URLError as error:
        reason = error.reason
        unreachable = isinstance(reason, (socket.gaierror, TimeoutError))
        if isinstance(reason, OSError) and (unreachable or reason.errno in _UNREACHABLE):
            return reason
        return None
    except (OSError, HTTPException, ValueError):  # connected: a slow or unusual answer
        return None
