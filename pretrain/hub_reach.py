"""Use the Hugging Face hub or, without a network, its cache at once.

Without a network the hub's client retries for a minute, with a line for each attempt. Here the hub
is tried once: if its name cannot be resolved or nothing answers, the client is put offline. Imports
no torch.
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
_PAUSE = 1.0  # seconds before the second attempt; a first one that took longer counts as several
# Unreachable. Everything else (slow, certificates, any HTTP status) means that a server answers.
_UNREACHABLE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


@contextmanager
def hub_or_cache() -> Iterator[str]:
    """If the hub is unreachable, the client uses only its cache in the block; yields why, or ""."""
    if constants.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    obstacle = _obstacle()
    if obstacle is None:
        yield ""
        return
    # The client reads the variable HF_HUB_OFFLINE into this once, when it is imported.
    constants.HF_HUB_OFFLINE = True
    try:
        yield f"{constants.ENDPOINT} cannot be reached ({obstacle.strerror or obstacle})"
    finally:
        constants.HF_HUB_OFFLINE = False


def _obstacle() -> OSError | None:
    """Why the hub is unreachable; None if it may be reachable."""
    proxies = urllib.request.getproxies()
    if "all" in proxies or any(url.lower().startswith("socks") for url in proxies.values()):
        return None  # the client can use these, urllib cannot
    began = time.monotonic()
    found = _try_once()
    if found is None or time.monotonic() - began > _PAUSE:
        return found
    time.sleep(_PAUSE)
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
    except (OSError, HTTPException, ValueError):  # connected, and answered slowly or strangely
        return None
