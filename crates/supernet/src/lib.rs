//! Reads checkpoints, orders units by importance, cuts sub-networks and scores their quality.
