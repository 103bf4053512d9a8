"""Airflow wiring: assets, sensors, triggers, the tasks. The only place in the library that imports Airflow."""
