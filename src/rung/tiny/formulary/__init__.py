"""The task `formulary`: strength and route of a drug have to be looked up with a tool before a direction is written."""
