"""What can be exported: one file a kind, each giving the same `Source`."""
