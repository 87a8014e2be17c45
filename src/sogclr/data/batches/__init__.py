"""Schedules of micro-batches, and loaders of their contents."""
