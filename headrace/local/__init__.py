"""The embedded stack: a real Kafka and a real S3 server on this machine, from packages alone."""
