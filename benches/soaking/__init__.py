"""The soak: a server of ten streams under avleak for half an hour, leaky and clean, and what avleak costs it."""
