"""What a run will do: its settings, and a plan in which nothing is left open."""
