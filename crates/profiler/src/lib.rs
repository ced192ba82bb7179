//! Plans what to measure, drives agents on devices, and turns samples into a latency table.
