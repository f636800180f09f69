"""`streamerctl status --watch`: asks again and again, and shows a page that fits the screen."""
