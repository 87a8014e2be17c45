"""A page in a browser that searches: what is asked, what is shown, and who may ask."""
