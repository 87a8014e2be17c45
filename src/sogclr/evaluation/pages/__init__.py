"""Write what a run has learned, and what is in its data, as one page for a browser."""
