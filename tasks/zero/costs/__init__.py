"""Parts of the cost model: what a hop, a unit's moves, a pass and a train step take."""
