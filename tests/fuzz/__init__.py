"""Random, truncated and hostile HTTP at a real producer with a real Kafka (`python -m tests.fuzz`)."""
