"""Backends: log-sum-exps over the negatives of each anchor, by size, device and processes."""
