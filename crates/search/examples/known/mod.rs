//! Problems of the literature made discrete, and additive ones.

use std::convert::Infallible;
use std::f64::consts::{FRAC_PI_2, PI};

use lathe_search::{Problem, SearchError, Space, Trial};

/// Steps of a variable between 0 and 1.
const STEPS: usize = 64;

#[derive(Debug, Clone, Copy)]
pub enum Known {
    /// Zitzler, Deb & Thiele 2000 (doi:10.1162/106365600568202), numbers 1 to 3.
    Zdt(u32),
    /// Deb et al. 2002 (doi:10.1109/CEC.2002.1007032), three objectives.
    Dtlz2,
    /// Sizes of blocks: large ones cost time, small ones quality.
    Blocks,
    /// Items that are taken or left: the weight of the ones against the profit of the others.
    Knapsack,
}

impl Known {
    pub const ALL: [Self; 6] = [
        Self::Zdt(1),
        Self::Zdt(2),
        Self::Zdt(3),
        Self::Dtlz2,
        Self::Blocks,
        Self::Knapsack,
    ];

    pub fn name(self) -> String {
        match self {
            Self::Zdt(number) => format!("zdt{number}"),
            Self::Dtlz2 => "dtlz2".to_owned(),
            Self::Blocks => "blocks".to_owned(),
            Self::Knapsack => "knapsack".to_owned(),
        }
    }

    pub fn cardinalities(self) -> Vec<usize> {
        match self {
            Self::Zdt(_) => vec![STEPS + 1; 30],
            Self::Dtlz2 => vec![STEPS + 1; 12],
            Self::Blocks => vec![9; 60],
            Self::Knapsack => vec![2; 100],
        }
    }

    pub fn reference(self) -> Vec<f64> {
        match self {
            Self::Zdt(_) => vec![1.1; 2],
            Self::Dtlz2 => vec![1.1; 3],
            Self::Blocks => vec![60.0 * 2.0, 60.0 * 6.0],
            Self::Knapsack => vec![1500.0; 2],
        }
    }

    pub fn objectives(self, genome: &[usize]) -> Vec<f64> {
        let x: Vec<f64> = genome.iter().map(|g| *g as f64 / STEPS as f64).collect();
        match self {
            Self::Zdt(number) => {
                let g = 1.0 + 9.0 * x[1..].iter().sum::<f64>() / (x.len() - 1) as f64;
                let ratio = x[0] / g;
                let h = match number {
                    1 => 1.0 - ratio.sqrt(),
                    2 => 1.0 - ratio * ratio,
                    _ => 1.0 - ratio.sqrt() - ratio * (10.0 * PI * x[0]).sin(),
                };
                vec![x[0], g * h]
            }
            Self::Dtlz2 => {
                let g: f64 = x[2..].iter().map(|v| (v - 0.5).powi(2)).sum();
                let [a, b] = [x[0], x[1]].map(|v| v * FRAC_PI_2);
                let scale = 1.0 + g;
                vec![
                    scale * a.cos() * b.cos(),
                    scale * a.cos() * b.sin(),
                    scale * a.sin(),
                ]
            }
            Self::Blocks => {
                let each = genome.iter().enumerate().map(|(i, size)| {
                    let kept = *size as f64 / 8.0;
                    let (price, weight) =
                        (1.0 + (i % 3) as f64 / 2.0, 1.0 + (7 * i % 11) as f64 / 2.0);
                    let exponent = 1 + (5 * i % 3) as i32;
                    [price * kept, weight * (1.0 - kept).powi(exponent)]
                });
                each.fold(vec![0.0, 0.0], |sums, [cost, loss]| {
                    vec![sums[0] + cost, sums[1] + loss]
                })
            }
            Self::Knapsack => {
                let each = genome.iter().enumerate().map(|(i, taken)| {
                    let (weight, profit) = (5 + 37 * i % 19, 5 + 53 * i % 23);
                    [weight * taken, profit * (1 - taken)]
                });
                each.fold(vec![0.0, 0.0], |sums, [weight, lost]| {
                    vec![sums[0] + weight as f64, sums[1] + lost as f64]
                })
            }
        }
    }
}

pub struct Discrete {
    pub known: Known,
    space: Space,
}

impl Discrete {
    pub fn new(known: Known) -> Result<Self, SearchError> {
        let space = Space::new(known.cardinalities())?;
        Ok(Self { known, space })
    }
}

impl Problem for Discrete {
    type Error = Infallible;

    fn space(&self) -> &Space {
        &self.space
    }

    fn objective_names(&self) -> Vec<&str> {
        ["first", "second", "third"][..self.known.reference().len()].to_vec()
    }

    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, Infallible> {
        Ok(self.known.objectives(&trial.genome))
    }
}
