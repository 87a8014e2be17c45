"""Run on several processes: launch them, exchange tensors between them, shard weights."""
