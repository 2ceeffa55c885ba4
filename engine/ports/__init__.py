"""What the engine needs of the outside, as protocols, and what stands behind each."""
