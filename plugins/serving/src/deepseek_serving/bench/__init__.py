"""Load on a server, and what it makes of it: `deepseek bench`."""
