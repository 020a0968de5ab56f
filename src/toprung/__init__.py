"""toprung finds the best configuration of a PyTorch image classifier."""
