"""Login side of jobs: what to run, where it runs, how it stands."""
