"""`streamerctl fleet`: who is in the fleet, and what came from whom."""
