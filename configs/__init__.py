"""Configuration records: validated whole, before anything is submitted."""
