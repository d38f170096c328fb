"""Rollouts: random numbers (`philox`), drawing tokens (`draw`), the KV cache (`cache`), decoding and samplers."""
