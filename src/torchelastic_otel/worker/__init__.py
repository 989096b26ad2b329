"""What a worker may ask of us: it knows nothing of torch, of capture or of delivery."""
