"""The library: events, memory, stores, retrieval, ranking and metrics, without Ray."""
