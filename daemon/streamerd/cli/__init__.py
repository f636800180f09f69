"""streamerctl: one request, one answer, or a watch; owns nothing of the daemon."""
