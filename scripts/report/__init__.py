"""One self-contained HTML page over all runs: `python -m scripts.report`."""
