"""What was accepted, and how far it has come: the journal is the queue."""
