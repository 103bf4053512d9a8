"""`./cloudflux autopilots`: what the autopilots of whole buckets and accounts would bring."""
