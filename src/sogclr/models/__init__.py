"""Encoders and towers: built by name, fed with inputs, stored with their descriptions."""
