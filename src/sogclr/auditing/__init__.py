"""Measure how far the expected gradient of a batch is from the exact gradient over all data."""
