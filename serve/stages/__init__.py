"""The stages of a request, without Ray: read memory, retrieve, rank, arrange.

Each is an object that is made once from a release and then called; `serve.pipeline` runs them one
after the other and times each.
"""
