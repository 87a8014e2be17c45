"""Images and pairs: where samples come from, their ids, random views, and batches."""
