"""Where candidates come from: vector and text indexes, memory, popularity."""
