"""Contract tables and where they come from."""
