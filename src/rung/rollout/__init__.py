"""Rollouts: keyed uniforms (`philox`), token draws (`draw`), the KV cache (`cache`), decoding and samplers."""
