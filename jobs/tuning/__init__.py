"""The parts of `tune`: the space, the study, trials on Ray, and what came of them."""
