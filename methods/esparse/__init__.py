"""E-Sparse (Li et al. 2023) and the one-shot pruning methods that it is compared with."""
