"""The embedded stack behind `./cloudflux up`: real services, without Docker or a cloud account."""
