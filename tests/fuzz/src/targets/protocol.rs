//! The agent's protocol, both ways.

use lathe_agent::{Answer, Request};
use lathe_profiler::preflight;

/// What an agent reads.
pub fn requests(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(request) = serde_json::from_slice::<Request>(line) else {
            continue;
        };
        let again = serde_json::to_string(&request).expect("a request is JSON");
        let again: Request = serde_json::from_str(&again).expect("what was read can be read again");
        assert_eq!(again, request);
    }
}

/// What an agent says.
pub fn answers(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(answer) = serde_json::from_slice::<Answer>(line) else {
            continue;
        };
        let again = serde_json::to_string(&answer).expect("an answer is JSON");
        let again: Answer = serde_json::from_str(&again).expect("what was read can be read again");
        assert_eq!(again, answer);
        let Answer::Inspected(inspected) = answer else {
            continue;
        };
        if inspected.inspection.check().is_ok() {
            let found = preflight(&inspected.inspection, 2, Some(1 << 30));
            let _verdict = found.verdict();
            serde_json::to_string(&found).expect("a preflight is JSON");
        }
    }
}
