"""The daemon's sockets: clients' sessions and their messages. Decides nothing about memory."""
