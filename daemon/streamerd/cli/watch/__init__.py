"""`streamerctl status --watch`: asking again and again, and a page that always fits the screen."""
