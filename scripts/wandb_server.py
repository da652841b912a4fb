"""Check that there is a key for Weights & Biases and that its server answers, before anything is sent.

python -m scripts.wandb_server    exit code 0, or 2 with a message

W&B's own client would retry for hours.
"""

from __future__ import annotations

import sys
import urllib.request
from urllib.error import HTTPError

from runner.errors import UserError
from runner.execution.loggers import wandb_key_is_set, wandb_settings


def check_server(hint: str = "") -> None:
    """Check that there is a key and that the server answers within ten seconds.

    Args:
        hint: end of the message.

    Raises:
        UserError: there is no key, or the server does not answer.
    """
    address = wandb_settings().base_url
    if not wandb_key_is_set():
        raise UserError(f"There is no key for {address}: `wandb login`, or set WANDB_API_KEY.{hint}")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10).close()
    except HTTPError:
        pass  # the server has answered
    except OSError as error:
        raise UserError(f"{address} cannot be reached from here: {error}.{hint}") from error


if __name__ == "__main__":
    try:
        check_server()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
