"""Receives and examines files of clients, makes them shards, and compares them with memory."""
