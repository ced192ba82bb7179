//! Gets the runtime, the models and the evaluation data, verified by hash.
