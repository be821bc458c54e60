"""Training of the neural translator: examples, the loop on one device, and the loop on many."""
