"""`./cloudflux savings`: what plans expected to save, what they did save, and what the hold-out says."""
