"""`streamerctl doctor`: what usually goes wrong, one line each with the remedy."""
