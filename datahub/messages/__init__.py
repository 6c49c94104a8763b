"""Messages: kept under the SHA-256 of their bytes, and given back under it."""
