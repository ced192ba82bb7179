//! Multi-objective optimisers over a discrete space, the Pareto front and the study store.
