//! The Pareto front of a problem whose two objectives are sums over the variables, by dynamic
//! programming over partial sums (multiple-choice knapsack; Kellerer, Pferschy & Pisinger 2004,
//! chapter 11).

use crate::{Genome, SearchError};

/// Partial sums kept after each variable. The thinning loses at most one part in this many of the
/// range of costs per variable.
const MAX_POINTS: usize = 2000;

/// One choice of one variable: what it costs and what it loses.
pub type Choice = [f64; 2];

/// A point of the additive front.
#[derive(Debug, Clone, PartialEq)]
pub struct AdditivePoint {
    /// The choices.
    pub genome: Genome,
    /// Sum of costs.
    pub cost: f64,
    /// Sum of losses.
    pub loss: f64,
}

/// A partial sum: the last choice, and where it came from among the sums before.
#[derive(Clone, Copy)]
struct Partial {
    cost: f64,
    loss: f64,
    choice: usize,
    before: usize,
}

/// The front of `sum(cost)` against `sum(loss)`, sorted by cost.
///
/// # Errors
/// When a variable has no choices.
pub fn additive_front(variables: &[Vec<Choice>]) -> Result<Vec<AdditivePoint>, SearchError> {
    let start = Partial {
        cost: 0.0,
        loss: 0.0,
        choice: 0,
        before: 0,
    };
    let mut stages = vec![vec![start]];
    for (variable, choices) in variables.iter().enumerate() {
        if choices.is_empty() {
            return Err(SearchError::EmptySpace { variable });
        }
        let last = &stages[stages.len() - 1];
        let sums = last.iter().enumerate().flat_map(|(before, partial)| {
            choices
                .iter()
                .enumerate()
                .map(move |(choice, [cost, loss])| Partial {
                    cost: partial.cost + cost,
                    loss: partial.loss + loss,
                    choice,
                    before,
                })
        });
        stages.push(thin(non_dominated(sums.collect())));
    }
    let last = &stages[stages.len() - 1];
    Ok((0..last.len()).map(|index| trace(&stages, index)).collect())
}

/// Rising cost, falling loss.
fn non_dominated(mut sums: Vec<Partial>) -> Vec<Partial> {
    sums.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.loss.total_cmp(&b.loss)));
    let mut lowest = f64::INFINITY;
    sums.retain(|partial| {
        let is_better = partial.loss < lowest;
        lowest = lowest.min(partial.loss);
        is_better
    });
    sums
}

/// Keeps the best sum of each of `MAX_POINTS` equal intervals of cost, and both ends.
fn thin(front: Vec<Partial>) -> Vec<Partial> {
    if front.len() <= MAX_POINTS {
        return front;
    }
    let (first, last) = (front[0], front[front.len() - 1]);
    let width = (last.cost - first.cost) / MAX_POINTS as f64;
    let interval = |partial: &Partial| ((partial.cost - first.cost) / width) as usize;
    let mut kept = vec![first];
    for pair in front.windows(2) {
        // The last of an interval has its lowest loss.
        if interval(&pair[0]) != interval(&pair[1]) && pair[0].cost > first.cost {
            kept.push(pair[0]);
        }
    }
    kept.push(last);
    kept
}

fn trace(stages: &[Vec<Partial>], index: usize) -> AdditivePoint {
    let end = stages[stages.len() - 1][index];
    let mut genome = Vec::with_capacity(stages.len() - 1);
    let mut at = index;
    for stage in stages[1..].iter().rev() {
        genome.push(stage[at].choice);
        at = stage[at].before;
    }
    genome.reverse();
    AdditivePoint {
        genome,
        cost: end.cost,
        loss: end.loss,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_front_is_that_of_all_genomes(
            variables in prop::collection::vec(
                prop::collection::vec((0u8..20, 0u8..20), 1..5), 1..6),
        ) {
            let variables: Vec<Vec<Choice>> = variables
                .iter()
                .map(|v| v.iter().map(|&(c, l)| [f64::from(c), f64::from(l)]).collect())
                .collect();
            let mut all = vec![[0.0, 0.0]];
            for choices in &variables {
                let sums = all.iter().flat_map(|sum: &[f64; 2]| {
                    choices.iter().map(move |choice| [sum[0] + choice[0], sum[1] + choice[1]])
                });
                all = sums.collect();
            }
            let front = additive_front(&variables).unwrap();
            for point in &front {
                let sum = |m: usize| -> f64 {
                    point.genome.iter().zip(&variables).map(|(g, v)| v[*g][m]).sum()
                };
                prop_assert_eq!([sum(0), sum(1)], [point.cost, point.loss]);
            }
            for sum in &all {
                let is_covered = front.iter().any(|p| p.cost <= sum[0] && p.loss <= sum[1]);
                prop_assert!(is_covered);
            }
            for pair in front.windows(2) {
                prop_assert!(pair[0].cost < pair[1].cost && pair[0].loss > pair[1].loss);
            }
        }
    }

    #[test]
    fn a_large_problem_stays_close_to_its_front() {
        let choice = |v: usize, c: usize| {
            let share = c as f64 / 8.0;
            [
                share * (1.0 + (v % 5) as f64 / 7.0),
                (1.0 - share).powi(2) * (1.0 + (v % 11) as f64),
            ]
        };
        let variables: Vec<Vec<Choice>> = (0..60)
            .map(|v| (0..9).map(|c| choice(v, c)).collect())
            .collect();
        let front = additive_front(&variables).unwrap();
        assert!(front.len() > 500 && front.len() <= MAX_POINTS + 2);
        // Lagrangian relaxation: for any price the best genome lies on the front.
        for price in [0.1, 0.5, 2.0, 8.0] {
            let value = |[cost, loss]: &Choice| loss + price * cost;
            let best: f64 = variables
                .iter()
                .map(|v| v.iter().map(value).fold(f64::INFINITY, f64::min))
                .sum();
            let found = front.iter().map(|p| p.loss + price * p.cost);
            let found = found.fold(f64::INFINITY, f64::min);
            assert!(found <= best * 1.01 + 0.05, "{found} {best}");
        }
    }
}
