"""Stage 4, at decoder layer K: which visual tokens go on. Nothing lives here yet."""
