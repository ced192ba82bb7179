//! What an input may cost.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Memory that any input may take, whatever its size.
const FREE_BYTES: usize = 32 << 20;
/// Memory that a byte of input may take: values of a YAML tree are about a hundred times as large
/// as their text.
const BYTES_PER_BYTE: usize = 400;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Largest memory at one time, in bytes.
    pub peak_bytes: usize,
}

/// Does something and tells its cost. Other threads must not allocate meanwhile.
pub fn cost_of(act: impl FnOnce()) -> Cost {
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    act();
    Cost {
        peak_bytes: ALLOCATED.peak_usage().saturating_sub(before),
    }
}

impl Cost {
    /// Holds it against the size of the input.
    ///
    /// # Panics
    /// When it is out of proportion.
    pub fn check(&self, input_bytes: usize) {
        let limit = FREE_BYTES + BYTES_PER_BYTE * input_bytes;
        assert!(
            self.peak_bytes <= limit,
            "{} bytes were allocated for an input of {input_bytes}",
            self.peak_bytes
        );
    }
}
