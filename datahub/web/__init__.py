"""HTTP, once for all capabilities."""
