"""The Open Inference Protocol, apart from how it travels: requests to tensors, tensors to answers."""
