"""A file a peer. Each runs in the peer's own environment: it imports the standard library and the peer's libraries."""
