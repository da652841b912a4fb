"""Files of the Hugging Face hub: from its local cache, and from its server only where that answers."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from datasets.download import CONNECT_SECONDS, connect, is_offline

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read by the library when it is imported, which is later


def from_cache_or_hub(load: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call a loader of the Hugging Face libraries: on the local cache alone, then on the hub too.

    The libraries retry for half a minute where there is no network; here one question comes first.

    Args:
        load: function that takes `local_files_only`, such as `hf_hub_download` or a `from_pretrained`.
        *args: its arguments.
        **settings: its keyword arguments.

    Returns:
        What the loader returns.

    Raises:
        OSError: the files are not in the cache, and the hub does not answer or does not have them.
    """
    with suppress(OSError):
        return load(*args, local_files_only=True, **settings)
    if is_offline():
        raise ConnectionError("it is not in the cache of the Hugging Face hub, and HF_HUB_OFFLINE is set")
    if not hub_answers():
        raise ConnectionError("it is not in the cache of the Hugging Face hub, which does not answer")
    return load(*args, **settings)


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Return whether the hub's server answers within CONNECT_SECONDS. Each process asks once."""
    from huggingface_hub import constants

    try:
        connect(urllib.request.Request(constants.ENDPOINT, method="HEAD"), CONNECT_SECONDS, CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answers, if only with an error
    except OSError:
        return False
    return True
