"""YAML values, and the module that composes them into one checked document."""
