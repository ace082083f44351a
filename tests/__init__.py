"""A package, so that tests can share their fixtures by import."""
