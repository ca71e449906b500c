"""What every other room asks of a torch module: inputs, modes, copies."""
