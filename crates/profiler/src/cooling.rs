//! Waits for a device to cool down.

use std::thread::sleep;
use std::time::{Duration, Instant};

use lathe_agent::{Inspection, ThermalZone};

use crate::agent::Agent;
use crate::{CoolDown, ProfilerError};

/// How often the temperature is looked at.
const PAUSE: Duration = Duration::from_secs(2);

/// The waiting of one profile.
#[derive(Debug, Default)]
pub(crate) struct Cooling {
    rule: Option<CoolDown>,
    waited: Duration,
    /// Times that it took too long.
    overdue: usize,
    /// Whether no sensor tells.
    is_blind: bool,
}

impl Cooling {
    pub fn new(rule: Option<CoolDown>) -> Self {
        Self {
            rule,
            ..Self::default()
        }
    }

    /// Waits until the hottest sensor is below the rule's limit, or for the rule's time.
    pub fn wait(&mut self, agent: &mut Agent) -> Result<(), ProfilerError> {
        let Some(rule) = self.rule.filter(|_| !self.is_blind) else {
            return Ok(());
        };
        let clock = Instant::now();
        let limit = Duration::from_secs(rule.timeout_s);
        loop {
            match hottest_celsius(&agent.inspect()?) {
                None => self.is_blind = true,
                Some(celsius) if celsius >= rule.below_celsius => {
                    if clock.elapsed() < limit {
                        sleep(PAUSE.min(limit));
                        continue;
                    }
                    self.overdue += 1;
                    self.waited += clock.elapsed();
                }
                Some(_) => self.waited += clock.elapsed(),
            }
            return Ok(());
        }
    }

    /// What is to be known of the waiting, in words.
    pub fn conditions(&self) -> Vec<String> {
        let Some(rule) = self.rule else {
            return Vec::new();
        };
        let limit = format!("below {} degrees Celsius", rule.below_celsius);
        let mut conditions = match self.is_blind {
            true => vec![format!("no sensor tells whether it was {limit}")],
            false => vec![format!("waited {} s to be {limit}", self.waited.as_secs())],
        };
        if self.overdue > 0 {
            conditions.push(format!(
                "{} times it was not {limit} after {} s and was measured all the same",
                self.overdue, rule.timeout_s
            ));
        }
        conditions
    }
}

/// The hottest sensor of the processor, or of all where none is known as the processor's.
fn hottest_celsius(inspection: &Inspection) -> Option<f64> {
    let zones = inspection.thermal_zones.iter();
    let hottest = |zones: &mut dyn Iterator<Item = &ThermalZone>| {
        zones.map(|zone| zone.celsius).max_by(f64::total_cmp)
    };
    let processor = hottest(&mut zones.clone().filter(|zone| zone.is_processor()));
    processor.or_else(|| hottest(&mut zones.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str, celsius: f64) -> ThermalZone {
        ThermalZone {
            name: name.to_owned(),
            celsius,
        }
    }

    #[test]
    fn the_processor_counts_where_it_is_known() {
        let inspection = |thermal_zones| Inspection {
            thermal_zones,
            ..Inspection::default()
        };
        let known = inspection(vec![
            zone("battery", 60.0),
            zone("cpu0", 41.0),
            zone("cpu1", 44.0),
        ]);
        assert_eq!(hottest_celsius(&known), Some(44.0));
        assert_eq!(
            hottest_celsius(&inspection(vec![zone("skin", 35.0)])),
            Some(35.0)
        );
        assert_eq!(hottest_celsius(&inspection(Vec::new())), None);
    }

    #[test]
    fn the_waiting_is_told() {
        assert!(Cooling::new(None).conditions().is_empty());
        let rule = CoolDown {
            below_celsius: 45.0,
            timeout_s: 7,
        };
        let mut cooling = Cooling::new(Some(rule));
        cooling.waited = Duration::from_secs(30);
        assert_eq!(
            cooling.conditions(),
            ["waited 30 s to be below 45 degrees Celsius"]
        );
        cooling.overdue = 2;
        assert!(cooling.conditions()[1].starts_with("2 times"));
        cooling.is_blind = true;
        assert!(cooling.conditions()[0].contains("no sensor"));
    }
}
