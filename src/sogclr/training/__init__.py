"""Train: the loop, the tasks that it learns, and what a run reports meanwhile."""
