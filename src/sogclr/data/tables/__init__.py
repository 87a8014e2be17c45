"""Tables, and pairs from two of their columns."""
