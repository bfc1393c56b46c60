"""One stage a file, in the order a push meets them."""
