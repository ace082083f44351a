"""What is remembered: key-value caches that hold fewer entries than they have seen."""
