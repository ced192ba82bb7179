//! Asynchronous successive halving (Li et al. 2020, 1810.05934) for several objectives (Schmucker et al.
//! 2021, 2106.12639): what is among the best at a low fidelity is evaluated at the next, few evaluations
//! of many genomes first, full ones of few. Where those differ in how they spread along the front, by
//! crowding here.

use crate::evolution::places;
use crate::{Evaluation, Fidelity, SearchError, Searcher, Trial};

/// Evaluations of a fidelity among which the best are sought: work grows with their square.
const MOST_COMPARED: usize = 512;

/// Settings of [`SuccessiveHalving`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalvingOptions {
    /// Low fidelities that genomes climb through, from 0 on.
    pub low_fidelities: usize,
    /// One in so many of each rises to the next.
    pub reduction: usize,
}

/// The method around another that proposes: random search, as published, or any. It is told what the
/// lowest fidelity says of its proposals.
pub struct SuccessiveHalving {
    proposer: Box<dyn Searcher>,
    options: HalvingOptions,
    rungs: Vec<Rung>,
}

/// What was evaluated at one low fidelity.
#[derive(Default)]
struct Rung {
    /// The latest, and whether they have risen.
    entries: Vec<(Evaluation, bool)>,
    /// All there were.
    told: usize,
    /// All that have risen.
    risen: usize,
}

impl SuccessiveHalving {
    /// A search through the low fidelities of a problem for what `proposer` proposes.
    ///
    /// # Errors
    /// When an option is out of range.
    pub fn new(proposer: Box<dyn Searcher>, options: HalvingOptions) -> Result<Self, SearchError> {
        let wrong = |option, value: usize, reason| SearchError::Option {
            option,
            value: value.to_string(),
            reason,
        };
        if options.low_fidelities == 0 {
            return Err(wrong("low_fidelities", 0, "expected at least 1"));
        }
        if options.reduction < 2 {
            return Err(wrong("reduction", options.reduction, "expected at least 2"));
        }
        Ok(Self {
            rungs: (0..options.low_fidelities)
                .map(|_| Rung::default())
                .collect(),
            proposer,
            options,
        })
    }
}

impl Rung {
    /// The best that has not risen, once there are so many that another may.
    fn rise(&mut self, reduction: usize) -> Option<Evaluation> {
        if (self.risen + 1) * reduction > self.told {
            return None;
        }
        let objectives = self.entries.iter().map(|(e, _)| &e.objectives[..]);
        let places = places(&objectives.collect::<Vec<_>>());
        let waiting = (0..self.entries.len()).filter(|at| !self.entries[*at].1);
        let best = waiting.min_by_key(|at| places[*at])?;
        self.entries[best].1 = true;
        self.risen += 1;
        Some(self.entries[best].0.clone())
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        self.told += 1;
        self.entries.push((evaluation.clone(), false));
        if self.entries.len() > MOST_COMPARED {
            self.entries.remove(0);
        }
    }
}

impl Searcher for SuccessiveHalving {
    fn name(&self) -> &'static str {
        self.proposer.name()
    }

    fn options(&self) -> String {
        format!("{:?}, {}", self.options, self.proposer.options())
    }

    fn ask(&mut self) -> Option<Trial> {
        let reduction = self.options.reduction;
        for (index, rung) in self.rungs.iter_mut().enumerate().rev() {
            if let Some(risen) = rung.rise(reduction) {
                let is_last = index + 1 == self.options.low_fidelities;
                let next = if is_last {
                    Fidelity::Full
                } else {
                    Fidelity::Low(index + 1)
                };
                return Some(Trial {
                    genome: risen.genome,
                    fidelity: next,
                });
            }
        }
        let trial = self.proposer.ask()?;
        Some(Trial {
            fidelity: Fidelity::Low(0),
            ..trial
        })
    }

    fn tell(&mut self, evaluation: &Evaluation) {
        let Fidelity::Low(index) = evaluation.fidelity else {
            return;
        };
        if let Some(rung) = self.rungs.get_mut(index) {
            rung.tell(evaluation);
        }
        if index == 0 {
            self.proposer.tell(evaluation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RandomSearch, Space};

    fn search(low_fidelities: usize, reduction: usize) -> Result<SuccessiveHalving, SearchError> {
        let space = Space::new(vec![9; 4]).unwrap();
        let random = RandomSearch::new(&space, &[], 1).unwrap();
        SuccessiveHalving::new(
            Box::new(random),
            HalvingOptions {
                low_fidelities,
                reduction,
            },
        )
    }

    #[test]
    fn one_in_so_many_rises_and_those_are_the_best() {
        let mut search = search(2, 3).unwrap();
        let mut told: Vec<Vec<(usize, Vec<usize>)>> = vec![Vec::new(); 3];
        for _ in 0..200 {
            let trial = search.ask().unwrap();
            let loss = trial.genome.iter().sum::<usize>();
            let at = match trial.fidelity {
                Fidelity::Low(index) => index,
                Fidelity::Full => 2,
            };
            told[at].push((loss, trial.genome.clone()));
            search.tell(&trial.with_objectives(vec![loss as f64, 1.0]));
        }
        let counts: Vec<usize> = told.iter().map(Vec::len).collect();
        assert_eq!(counts.iter().sum::<usize>(), 200);
        assert!(counts[1].abs_diff(counts[0] / 3) <= 1, "{counts:?}");
        assert!(counts[2].abs_diff(counts[1] / 3) <= 1, "{counts:?}");
        let mean = |at: usize| {
            told[at].iter().map(|(loss, _)| *loss).sum::<usize>() as f64 / counts[at] as f64
        };
        assert!(mean(2) < mean(1) && mean(1) < mean(0));
        // Each genome once at each fidelity, and only after the one below.
        for at in 1..3 {
            let genomes = |at: usize| told[at].iter().map(|(_, genome)| genome);
            assert!(genomes(at).all(|genome| genomes(at - 1).any(|below| below == genome)));
            assert!(genomes(at).all(|genome| genomes(at).filter(|g| *g == genome).count() == 1));
        }
    }

    #[test]
    fn wrong_options_are_named() {
        let named = |low, reduction| search(low, reduction).err().unwrap().to_string();
        assert!(named(0, 3).contains("low_fidelities"));
        assert!(named(1, 1).contains("reduction"));
    }
}
