//! libFuzzer on the target that `LATHE_FUZZ_TARGET` names; its arguments are libFuzzer's.

#![no_main]

use std::sync::OnceLock;

use lathe_fuzz::{TARGETS, Target};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("LATHE_FUZZ_TARGET").unwrap_or_default();
        Target::find(&name).unwrap_or_else(|| {
            let names = TARGETS.map(|target| target.name).join(", ");
            eprintln!("LATHE_FUZZ_TARGET is `{name}`, expected one of {names}");
            std::process::exit(2)
        })
    })
}

fuzz_target!(init: drop(target()), |input: &[u8]| {
    target().run(input);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    // libFuzzer's own changes know which comparisons failed.
    if seed % 4 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed.into());
    let changed = target().mutate(&data[..size], &mut rng);
    if changed.len() > max_size {
        return fuzzer_mutate(data, size, max_size);
    }
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
});
