"""Is there a key for Weights & Biases, and does its server answer? To ask before anything is sent: W&B waits for hours.

python -m scripts.wandb_server    exit code 0, or 2 and what to do
"""

from __future__ import annotations

import sys
import urllib.request
from urllib.error import HTTPError

from runner.errors import UserError
from runner.execution.loggers import wandb_key_is_set, wandb_settings


def check_server(otherwise: str = "") -> None:
    """Raises UserError where there is no key, or no answer within ten seconds. otherwise: what can be done without."""
    address = wandb_settings().base_url
    if not wandb_key_is_set():
        raise UserError(f"There is no key for {address}: `wandb login`, or set WANDB_API_KEY.{otherwise}")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10).close()
    except HTTPError:
        pass  # an answer
    except OSError as error:
        raise UserError(f"{address} cannot be reached from here: {error}.{otherwise}") from error


if __name__ == "__main__":
    try:
        check_server()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
