"""Low-rank and structured factorizations of layers."""
