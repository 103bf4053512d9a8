"""The use cases: collect, score, plan, migrate, drain, report. Everything they need is passed in."""
