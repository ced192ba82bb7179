//! How far apart the processors are, as a cache line sees it.
//!
//! A virtual machine's processors are moved between the host's cores, and a phone's scheduler moves
//! threads between clusters. Two processors that share a last-level cache hand a line over in a
//! fraction of the time that two others need, and everything that threads share follows: kernels
//! with many barriers are slower far apart, streams of weights are faster, since two caches have
//! two ways to memory. A latency therefore means little without the distance at which it was
//! measured, and the round trip of a cache line tells it within a fraction of a millisecond.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lathe_agent::{RoundTrip as Answered, SessionConfig};

use super::affinity;

/// Round trips that are timed together.
const TRIPS: u32 = 50;
/// Groups of round trips, of which the fastest counts: interruptions only ever add.
const GROUPS: u32 = 6;
/// Other processors to which the way is measured at most.
const MAX_OTHERS: usize = 7;
/// A way that takes longer is given up: another task holds one of the processors.
const LIMIT: Duration = Duration::from_millis(20);
/// Tells the partner to stop.
const STOP: u32 = u32::MAX;

/// Answers how far apart the processors of a session's threads are.
pub fn round_trip(processors: &[usize], id: u64, session: &SessionConfig) -> Answered {
    Answered {
        id,
        round_trip_ns: RoundTrip::between(processors, session.threads).measure_ns(),
    }
}

/// The ways between the processors that a job's threads run on.
pub struct RoundTrip {
    processors: Vec<usize>,
}

impl RoundTrip {
    /// The ways between the first `threads` of `processors`.
    pub fn between(processors: &[usize], threads: usize) -> Self {
        let count = processors.len().min(threads).min(1 + MAX_OTHERS);
        Self {
            processors: processors[..count].to_vec(),
        }
    }

    /// Mean round trip from the first processor to each of the others in nanoseconds; `None` for
    /// one processor, and where threads cannot be bound.
    pub fn measure_ns(&self) -> Option<u64> {
        let (&first, others) = self.processors.split_first()?;
        let trips = others.iter().map(|&other| pair_ns(first, other));
        let trips: Vec<u64> = trips.collect::<Option<_>>()?;
        let total: u64 = trips.iter().sum();
        (!trips.is_empty()).then(|| total / trips.len() as u64)
    }
}

/// A counter alone on its cache line (some processors fetch lines in pairs).
#[repr(align(128))]
struct Line(AtomicU32);

fn pair_ns(first: usize, other: usize) -> Option<u64> {
    let line = Line(AtomicU32::new(0));
    thread::scope(|scope| {
        let partner = scope.spawn(|| affinity::bind(&[other]).is_ok() && reply(&line.0));
        let timer = scope.spawn(|| {
            let fastest = affinity::bind(&[first]).ok().and_then(|()| call(&line.0));
            line.0.store(STOP, Ordering::Release);
            fastest
        });
        let fastest = timer.join().ok().flatten();
        let is_bound = partner.join().unwrap_or(false);
        fastest.filter(|_| is_bound)
    })
}

/// Nanoseconds of the fastest group's round trips.
fn call(line: &AtomicU32) -> Option<u64> {
    let start = Instant::now();
    let mut fastest = None;
    for group in 0..GROUPS {
        let clock = Instant::now();
        for trip in 0..TRIPS {
            let odd = 2 * (group * TRIPS + trip) + 1;
            line.store(odd, Ordering::Release);
            let mut spins = 0u32;
            while line.load(Ordering::Acquire) != odd + 1 {
                spins += 1;
                if spins.is_multiple_of(1024) && start.elapsed() > LIMIT {
                    return fastest;
                }
            }
        }
        let trip_ns = clock.elapsed().as_nanos() as u64 / u64::from(TRIPS);
        fastest = Some(
            fastest
                .map_or(trip_ns, |least: u64| least.min(trip_ns))
                .max(1),
        );
    }
    fastest
}

/// Answers odd numbers with the next even one until told to stop.
fn reply(line: &AtomicU32) -> bool {
    loop {
        match line.load(Ordering::Acquire) {
            STOP => return true,
            odd if odd % 2 == 1 => {
                // The caller may have given up meanwhile; its word stands.
                let _stopped =
                    line.compare_exchange(odd, odd + 1, Ordering::AcqRel, Ordering::Acquire);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_processor_has_no_distance() {
        assert_eq!(RoundTrip::between(&[0], 1).measure_ns(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_line_takes_nanoseconds_to_come_back() {
        let processors = affinity::allowed();
        let trip_ns = RoundTrip::between(&processors, 2).measure_ns();
        assert_eq!(trip_ns.is_some(), processors.len() > 1);
        let trip_ns = trip_ns.unwrap_or(1);
        assert!((1..1_000_000).contains(&trip_ns), "{trip_ns}");
    }
}
