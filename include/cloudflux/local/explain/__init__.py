"""`./cloudflux explain`: why an object stays or moves."""
