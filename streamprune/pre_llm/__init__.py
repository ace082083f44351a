"""Stage 3, between vision tower and language model: one file per method."""
