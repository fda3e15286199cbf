"""Random batches of the data, beside the flow of all of them."""
