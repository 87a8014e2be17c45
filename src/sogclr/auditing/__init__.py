"""How far the gradient of a batch, or of a table, is from the exact one, on one's own data."""
