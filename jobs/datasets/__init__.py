"""Data sets that come with the project, and how each becomes events."""
