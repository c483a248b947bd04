"""Offline metrics: full rankings, candidate lists, and intervals over users. Pure numpy."""
