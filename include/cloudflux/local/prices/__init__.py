"""Price books on the command line: show them, check one's own, compare them with the providers' public price lists."""
