"""`https://` and `http://`: files that any web server serves. They cannot be listed, only named."""
