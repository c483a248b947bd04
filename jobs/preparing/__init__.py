"""What `prepare` is made of: what to read, chunks, parts, the plan of a run and its ledger."""
