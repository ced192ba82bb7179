//! A network of one machine beside this one.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace, and a cable from here to there.
pub struct Network {
    number: u32,
}

/// Why the tests of this file cannot run here; they must when `LATHE_REQUIRE_DEVICES` is set.
pub fn missing(programs: &[&str]) -> Option<String> {
    let is_there = |program: &&&str| {
        let find = Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .output();
        find.is_ok_and(|found| found.status.success())
    };
    let lost = programs.iter().find(|program| !is_there(program));
    let lost = lost.map(|program| format!("{program} is not installed"));
    let is_root = || {
        Command::new("id")
            .arg("-u")
            .output()
            .is_ok_and(|id| id.stdout == b"0\n")
    };
    let reason = lost.or_else(|| (!is_root()).then(|| "only root makes networks".to_owned()));
    if let Some(reason) = &reason {
        let is_required = std::env::var_os("LATHE_REQUIRE_DEVICES").is_some();
        assert!(!is_required, "{reason}");
        eprintln!("skipped: {reason}");
    }
    reason
}

impl Network {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Networks of test programs that run at once do not meet.
        let own = std::process::id() % 250 * 64;
        let network = Self {
            number: own + COUNT.fetch_add(1, Ordering::Relaxed) % 64,
        };
        let (name, cable) = (network.name(), network.cable());
        // Left by a test that was killed.
        call("ip", &["netns", "del", &name]);
        call("ip", &["link", "del", &cable]);
        let here = format!("{}/30", network.address(1));
        let there = format!("{}/30", network.address(2));
        for words in [
            &["netns", "add", &name][..],
            &[
                "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &name,
            ],
            &["addr", "add", &here, "dev", &cable],
            &["link", "set", &cable, "up"],
            &["-n", &name, "addr", "add", &there, "dev", "eth0"],
            &["-n", &name, "link", "set", "eth0", "up"],
            &["-n", &name, "link", "set", "lo", "up"],
        ] {
            assert!(call("ip", words), "ip {words:?}");
        }
        network
    }

    fn name(&self) -> String {
        format!("lathe-{}", self.number)
    }

    fn cable(&self) -> String {
        format!("lathe{}", self.number)
    }

    fn address(&self, end: u32) -> String {
        let at = self.number * 4 + end;
        format!("10.{}.{}.{}", 200 + (at >> 16), at >> 8 & 255, at & 255)
    }

    /// The address of the machine there.
    pub fn there(&self) -> String {
        self.address(2)
    }

    /// A program there, which ends with this one's network.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(), program]);
        command
    }

    /// Pulls the cable, or puts it back.
    pub fn plug(&self, is_plugged: bool) {
        let state = if is_plugged { "up" } else { "down" };
        assert!(call("ip", &["link", "set", &self.cable(), state]));
    }

    /// Numbers and names of the processes there.
    pub fn processes(&self) -> Vec<(String, String)> {
        let found = Command::new("ip")
            .args(["netns", "pids", &self.name()])
            .output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        let named = found.split_whitespace().filter_map(|process| {
            let name = std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
            Some((process.to_owned(), name.trim().to_owned()))
        });
        named.collect()
    }

    /// Ends all programs there, as if the power had gone.
    pub fn kill_all(&self) {
        for (process, _) in self.processes() {
            call("kill", &["-KILL", &process]);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.kill_all();
        call("ip", &["link", "del", &self.cable()]);
        call("ip", &["netns", "del", &self.name()]);
    }
}

/// Whether a program succeeds.
pub fn call(program: &str, words: &[&str]) -> bool {
    let output = Command::new(program).args(words).output();
    output.is_ok_and(|output| output.status.success())
}
