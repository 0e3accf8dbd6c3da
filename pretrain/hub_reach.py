"""The Hugging Face hub or, where nothing leads there, its cache: found out once, in a moment.

Its client asks again and again for a minute and prints a line each time. Where the name of the hub
cannot be resolved or nothing answers at its address, that helps nobody. Imports no torch.
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

_PATIENCE = 10.0  # seconds to connect, as the client's; a slow answer is left to the client
_PAUSE = 1.0  # seconds before a refusal is believed; what took longer had several tries in it
# No way there; everything else (slow, certificates, any HTTP status) says that somebody answers.
_NO_WAY = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


@contextmanager
def hub_or_cache() -> Iterator[str]:
    """Inside, the client uses its cache alone where nothing leads to the hub; gives why, or ""."""
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
    """Why nothing leads to the hub; None where something may."""
    proxies = urllib.request.getproxies()
    if "all" in proxies or any(url.lower().startswith("socks") for url in proxies.values()):
        return None  # the client knows these ways, urllib does not
    began = time.monotonic()
    found = _try_once()
    if found is None or time.monotonic() - began > _PAUSE:
        return found
    time.sleep(_PAUSE)
    return _try_once()


def _try_once() -> OSError | None:
    """Connect as the client will, by the proxies of the environment."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE):
            return None
    except urllib.error.HTTPError as error:  # an answer
        error.close()
        return None
    except urllib.error.URLError as error:
        reason = error.reason
        no_way = isinstance(reason, (socket.gaierror, TimeoutError))
        if isinstance(reason, OSError) and (no_way or reason.errno in _NO_WAY):
            return reason
        return None
    except (OSError, HTTPException, ValueError):  # connected, and answered slowly or strangely
        return None
