"""The backtest on the command line."""
