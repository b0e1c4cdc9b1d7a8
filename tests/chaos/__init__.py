"""Chaos on the real stack: everything is killed, paused and cut off, under load; then nothing may be lost or twice."""
