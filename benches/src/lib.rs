//! Criterion benchmarks of what a user waits for.
