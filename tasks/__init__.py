"""Everything that runs: engines, launchers, tracking, and the steps of the flows."""
