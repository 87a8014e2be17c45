"""Measure embeddings: kNN, linear probe, retrieval, zero-shot classification, STS, geometry."""
