//! Turns a chosen sub-network into a model folder that runs.
