"""The control socket: who is connected, and their messages. Decides nothing about memory."""
