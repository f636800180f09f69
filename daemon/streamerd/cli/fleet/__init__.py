"""`streamerctl fleet`: shows the members of the fleet, and which bytes came from other nodes."""
