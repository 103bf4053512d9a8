"""Objects, tiers, prices, costs, policy, plans and migrations: pure values and functions, no I/O and no clock."""
