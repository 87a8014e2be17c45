"""The settings of a run, and the plan that derives every setting left open."""
