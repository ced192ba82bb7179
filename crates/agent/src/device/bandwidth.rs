use std::hint::black_box;
use std::thread;
use std::time::Instant;

use anyhow::ensure;
use lathe_agent::{Bandwidth, BandwidthJob, MAX_TURNS};

use super::affinity;

/// Largest buffer.
const MAX_BYTES: u64 = 4 << 30;
/// Most threads.
const MAX_THREADS: usize = 1024;
/// Sums kept apart, so that additions do not wait for each other.
const LANES: usize = 64;

/// Reads a buffer again and again: the rate at which decode can stream weights at best.
pub fn bandwidth(processors: &[usize], id: u64, job: &BandwidthJob) -> anyhow::Result<Bandwidth> {
    ensure!(
        (1 << 20..=MAX_BYTES).contains(&job.bytes)
            && (1..=MAX_THREADS).contains(&job.threads)
            && (1..=MAX_TURNS).contains(&job.runs),
        "a buffer of {} bytes, {} threads and {} runs: too many or too few",
        job.bytes,
        job.threads,
        job.runs
    );
    let numbers = (job.bytes / 4) as usize;
    let buffer: Vec<u32> = (0..numbers as u32).collect();
    let part = numbers.div_ceil(job.threads);
    let durations = (0..job.runs).map(|_| {
        let clock = Instant::now();
        thread::scope(|scope| {
            let mut own = processors.iter().cycle();
            for part in buffer.chunks(part) {
                let processor = own.next().copied();
                scope.spawn(move || {
                    // Where threads cannot be bound, they run where the system likes.
                    let _free = processor.map(|processor| affinity::bind(&[processor]));
                    black_box(sum(part))
                });
            }
        });
        clock.elapsed().as_nanos() as u64
    });
    Ok(Bandwidth {
        id,
        durations_ns: durations.collect(),
    })
}

fn sum(numbers: &[u32]) -> u32 {
    let mut lanes = [0u32; LANES];
    let chunks = numbers.chunks_exact(LANES);
    let rest = chunks
        .remainder()
        .iter()
        .fold(0, |a: u32, b| a.wrapping_add(*b));
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*number);
        }
    }
    lanes.iter().fold(rest, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_summed() {
        let numbers: Vec<u32> = (0..1000).collect();
        assert_eq!(sum(&numbers), 499_500);
    }

    #[test]
    fn wild_sizes_are_refused() {
        for (bytes, threads, runs) in [
            (0, 1, 1),
            (u64::MAX, 1, 1),
            (1 << 20, 0, 1),
            (1 << 20, 1, 0),
        ] {
            let job = BandwidthJob {
                threads,
                bytes,
                runs,
            };
            assert!(bandwidth(&[0], 1, &job).is_err());
        }
        let job = BandwidthJob {
            threads: 2,
            bytes: 1 << 20,
            runs: 3,
        };
        assert_eq!(
            bandwidth(&affinity::allowed(), 1, &job)
                .unwrap()
                .durations_ns
                .len(),
            3
        );
    }
}
