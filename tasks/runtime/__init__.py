"""Compute side: run directories, journals, attempts, atomic files."""
