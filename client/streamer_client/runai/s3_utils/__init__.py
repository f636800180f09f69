"""Credentials and kinds of paths, under the names of Run:ai's modules."""
