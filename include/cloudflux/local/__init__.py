"""The embedded stack behind `./cloudflux up`: real services on this machine, without Docker and without a cloud account."""
