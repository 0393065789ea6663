"""Parts of the planner: what can be chosen, what it costs at least, and how long it takes."""
