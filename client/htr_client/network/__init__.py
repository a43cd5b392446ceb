"""How requests reach the servers: addresses, channels, what a failed call means, when it is tried again."""
