"""Small programs for people: benchmarks, reports."""
