"""`prepare --check`: what a mapping makes of some rows, and what is wrong with it."""
