"""Carts: many files of the archive, named in one request, given as one tar that nobody ever writes to a disk."""
