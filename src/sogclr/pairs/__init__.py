"""Pairs (image-text, text-text): towers, the task, evaluation, search."""
