//! The latency table: schema, loading, interpolation, prediction.
