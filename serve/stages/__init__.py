"""The steps of one request, as plain callables."""
