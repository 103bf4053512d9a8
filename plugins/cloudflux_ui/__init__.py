"""The pages that CloudFlux adds to Airflow's web UI."""
