"""Exit codes that several of our processes end with, apart from all that takes time to import."""

EXIT_CTRL_C = 130
"""Stopped by the user, or on a signal: 128 + SIGINT, as a shell would report it. A job that stops
so ends with ``tasks.runtime.signs.EXIT_INTERRUPTED``, which tells Slurm more."""
