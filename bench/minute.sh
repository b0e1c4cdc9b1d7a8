#!/bin/bash
# How many requests of 10 payloads are durable within a minute: bench/minute.sh [options of headrace bench].
# Two workers, then one, 256 connections, on a Kafka of its own; wrk (apt-get install wrk) loads most with least.
set -euo pipefail
cd "$(dirname "$0")/.."
for workers in 2 1; do
    .venv/bin/headrace bench --own-stack --only front --no-reference --rounds 1 --seconds 60 --warmup 5 \
        --connections 256 --payloads 10 --workers "$workers" "$@"
done
