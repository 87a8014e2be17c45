"""Search: samples of a run's data that are nearest to a sentence, a picture or a sample."""
