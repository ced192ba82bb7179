use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use lathe_agent::MAX_LINE_BYTES;

/// Lines that wait to be read at most: an agent that says more has to wait.
const MAX_WAITING: usize = 16;

/// The lines of an agent. They end when it does.
pub(super) fn read_lines(source: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, lines) = sync_channel(MAX_WAITING);
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        loop {
            let mut line = Vec::new();
            let mut limited = source.by_ref().take(MAX_LINE_BYTES as u64);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                // A line that is too long arrives in parts, and no part is valid JSON.
                Ok(_) if sender.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    lines
}
