"""Click logs: official layouts, preparation into memory-mapped shards, loaders of batches."""
