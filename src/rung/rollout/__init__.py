"""Rollouts: keyed uniforms (`philox`), draws (`draw`), the decode cache (`cache`) and the sampler (`sampler`)."""
