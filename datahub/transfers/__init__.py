"""Transfers: a product is staged from the archive, moved to its destination, verified and reported."""
