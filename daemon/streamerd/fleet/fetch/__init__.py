"""Fetches blocks from other nodes, behind the contract of storage's readers, in fetch workers."""
