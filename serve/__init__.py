"""The online service: HTTP schemas, plain stages, and a thin Ray Serve shell round them.

Ray's library of the same name is imported as `from ray import serve as ray_serve`.
"""
