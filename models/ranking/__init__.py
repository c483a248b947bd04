"""From candidates to an ordered slate: the ranker, its calibration, the arrangement."""
