"""How a run is composed, addressed, executed and recorded. Knows no method by name."""
