"""The flows, and the command line that starts them. No class is defined here."""
