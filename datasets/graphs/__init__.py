"""Collections of small graphs for graph-level prediction."""
