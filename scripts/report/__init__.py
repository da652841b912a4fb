"""Report of all runs as one self-contained HTML page: `python -m scripts.report`."""
