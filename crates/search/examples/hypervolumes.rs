//! Hypervolumes of fronts: reads lines of `[points, reference]`, prints a number for each.

use std::io::stdin;

use lathe_search::hypervolume;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in stdin().lines() {
        let (points, reference): (Vec<Vec<f64>>, Vec<f64>) = serde_json::from_str(&line?)?;
        println!("{:?}", hypervolume(&points, &reference));
    }
    Ok(())
}
