"""Documents, unique indexes, compare-and-set and the outbox."""
