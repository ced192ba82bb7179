//! What ONNX Runtime makes of an exported network.

use std::fs;

use lathe_agent::{GenerateJob, SessionConfig};
use lathe_export::export_onnx;
use lathe_onnx::{LogitRows, MODEL_FILE};
use lathe_profiler::Agent;
use lathe_supernet::{Subnet, TokenWindows};

/// The perplexity that follows from the runtime's logits, on the first window.
///
/// # Panics
/// When the export or the runtime fails.
pub fn perplexity_in_the_runtime(subnet: &Subnet<'_>, windows: &TokenWindows) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    export_onnx(folder.path(), subnet, None, LogitRows::All).unwrap();
    let file = folder.path().join("logits");
    let mut agent = Agent::start(&crate::agent()).unwrap();
    let tokens = windows.first(windows.window_len() + 1);
    let inputs = &tokens[..windows.window_len()];
    agent
        .generate(GenerateJob {
            model: folder.path().join(MODEL_FILE),
            session: SessionConfig { threads: 2 },
            prompt: inputs.iter().map(|token| i64::from(*token)).collect(),
            max_new_tokens: 1,
            logits: Some(file.clone()),
        })
        .unwrap();
    let bytes = fs::read(&file).unwrap();
    let logits = bytes.chunks_exact(4);
    let logits: Vec<f64> = logits
        .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        .collect();
    let vocab = subnet.supernet().model().vocab_size;
    let rows = logits.chunks_exact(vocab).zip(&tokens[1..]);
    let losses = rows.map(|(row, target)| {
        let total: f64 = row.iter().map(|v| v.exp()).sum();
        total.ln() - row[*target as usize]
    });
    (losses.sum::<f64>() / windows.window_len() as f64).exp()
}
