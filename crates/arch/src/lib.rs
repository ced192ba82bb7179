//! What a model and its sub-networks are: pure data and exact arithmetic.
