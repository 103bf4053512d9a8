"""The backtest: replay a real access trace day by day, and charge every policy for what it did by the price book."""
