/// An objective of a genome that is known without an evaluation, such as a price from a table.
pub type Cost = Box<dyn Fn(&[usize]) -> f64 + Send>;
