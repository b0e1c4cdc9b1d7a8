"""The archiver's real code over a Kafka and an S3 made of memory, on virtual time, driven by a seed."""
