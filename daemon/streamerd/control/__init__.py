"""The daemon's sockets: who is connected, and their messages. Decides nothing about memory."""
