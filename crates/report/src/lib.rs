//! One self-contained HTML page per study.
