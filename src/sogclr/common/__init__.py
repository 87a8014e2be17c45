"""Errors, options, console messages and the environment, for all layers."""
