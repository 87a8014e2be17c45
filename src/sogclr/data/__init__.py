"""Where samples come from, their stable ids, and how views of them are made."""
