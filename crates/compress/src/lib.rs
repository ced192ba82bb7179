//! Joins the table, the super-network and the search into one job.
