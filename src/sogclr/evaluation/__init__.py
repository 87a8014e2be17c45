"""How good an embedding is: kNN, linear probe, geometry."""
