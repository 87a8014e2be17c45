"""Images and pairs in tar shards: on disk in random order, or as a stream."""
