"""Find what deserves a look in a data set, and write it as a table, links and a selection."""
