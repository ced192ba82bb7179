//! Every target on its seeds, and on changes of them that are the same in every run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use lathe_fuzz::{TARGETS, Target};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// No input may take this long, even where many programs run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Changes of each target.
const INPUTS: u64 = 600;
/// Most changes of one input.
const MOST_CHANGES: usize = 6;

/// One test, since what is allocated is counted over all threads.
#[test]
fn no_input_breaks_a_reader() {
    for target in &TARGETS {
        let clock = std::time::Instant::now();
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (name, seed) in &seeds {
            run(target, &format!("seed {name}"), seed.clone());
        }
        for number in 0..INPUTS {
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let (name, mut input) = seeds[rng.random_range(0..seeds.len())].clone();
            for _ in 0..rng.random_range(1..=MOST_CHANGES) {
                input = target.mutate(&input, &mut rng);
            }
            run(target, &format!("input {number}, of seed {name}"), input);
        }
        println!(
            "{}: {INPUTS} inputs in {:.1} s",
            target.name,
            clock.elapsed().as_secs_f64()
        );
    }
}

/// Runs an input; where it breaks something, it is written to a file.
fn run(target: &'static Target, what: &str, input: Vec<u8>) {
    let (sender, done) = channel();
    let copy = input.clone();
    // A thread for each, since one that hangs cannot be stopped.
    let worker = thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| target.run(&copy)));
        // Nobody waits any more when it took too long.
        let _late = sender.send(outcome.is_ok());
    });
    let fault = match done.recv_timeout(PATIENCE) {
        Ok(true) => {
            worker.join().expect("the thread has ended");
            return;
        }
        Ok(false) | Err(RecvTimeoutError::Disconnected) => "broke the reader".to_owned(),
        Err(RecvTimeoutError::Timeout) => format!("took more than {PATIENCE:?}"),
    };
    let file = std::env::temp_dir().join(format!("lathe-fuzz-{}", target.name));
    let kept = std::fs::write(&file, &input).map_or_else(
        |error| format!("it cannot be kept: {error}"),
        |()| format!("it is kept in {}", file.display()),
    );
    panic!("{}: {what} {fault}; {kept}", target.name);
}

/// The seeds have to get past the first checks, or their changes would test little.
#[test]
fn seeds_are_sound() {
    for (target, seed) in [("gguf", "llama"), ("gguf", "quantized"), ("gguf", "gemma3")] {
        let path = Target::find(target).unwrap().seeds_folder().join(seed);
        lathe_supernet::checkpoint::Checkpoint::load(&path).unwrap();
    }
    let table = Target::find("table")
        .unwrap()
        .seeds_folder()
        .join("profile");
    lathe_latency::LatencyTable::load(&table).unwrap();
}
