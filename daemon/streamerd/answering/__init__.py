"""Handles the requests of clients."""
