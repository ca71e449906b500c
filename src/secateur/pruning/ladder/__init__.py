"""Down a row of falling keep ratios, each from the network of the one above."""
