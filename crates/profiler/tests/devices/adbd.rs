//! A real adbd, and an adb server of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::network::{Network, call, missing};
use super::short::wait_for;

pub const PORT: u16 = 5555;
/// adbd where Debian puts it.
const ADBD: &str = "/usr/lib/android-sdk/platform-tools/adbd";

/// adb with a server that no other test uses.
pub struct Adb {
    home: TempDir,
}

impl Adb {
    /// `None` where there can be none.
    pub fn new() -> Option<Self> {
        if missing(&["adb", ADBD, "ip"]).is_some() {
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        // Free now, and not given to another so soon.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let at = home.path().display();
        let script = format!(
            "#!/bin/sh\nexport HOME={at} TMPDIR={at} ANDROID_ADB_SERVER_PORT={port}\nexec adb \"$@\"\n"
        );
        fs::write(home.path().join("adb"), script).unwrap();
        let adb = Self { home };
        assert!(call("chmod", &["755", adb.program().to_str().unwrap()]));
        Some(adb)
    }

    pub fn program(&self) -> PathBuf {
        self.home.path().join("adb")
    }

    pub fn call(&self, words: &[&str]) -> bool {
        // Its server would hold a pipe.
        let mut adb = Command::new(self.program());
        adb.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        adb.status().unwrap().success()
    }
}

impl Drop for Adb {
    fn drop(&mut self) {
        self.call(&["kill-server"]);
    }
}

pub struct Adbd {
    pub network: Network,
    /// For Lathe's folder.
    pub device: TempDir,
    server: Child,
    path: String,
}

impl Adbd {
    pub fn new() -> Self {
        Self::with_path("/usr/bin:/bin")
    }

    /// With programs in these folders.
    pub fn with_path(path: &str) -> Self {
        let network = Network::new();
        let server = serve(&network, path);
        Self {
            network,
            device: tempfile::tempdir().unwrap(),
            server,
            path: path.to_owned(),
        }
    }

    pub fn serial(&self) -> String {
        format!("{}:{PORT}", self.network.there())
    }

    /// The device's YAML.
    pub fn yaml(&self, adb: &Adb) -> String {
        format!(
            "name: phone\nthreads: 1\njob_timeout_s: 10\nreconnect_s: 20\ntransport:\n  adb:\n    serial: '{}'\n    program: {:?}\n    folder: {:?}\n",
            self.serial(),
            adb.program(),
            self.device.path()
        )
    }

    /// Ends the server and all that it started, and starts it again.
    pub fn reboot(&mut self) {
        self.network.kill_all();
        self.server.wait().unwrap();
        self.server = serve(&self.network, &self.path);
    }
}

impl Drop for Adbd {
    fn drop(&mut self) {
        self.network.kill_all();
        let _ended = self.server.wait();
    }
}

/// It listens on all addresses of its network, and asks nobody who they are.
fn serve(network: &Network, path: &str) -> Child {
    let mut server = network.command(ADBD);
    let server = server
        .env("ADBD_PORT", PORT.to_string())
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("{}:{PORT}", network.there());
    wait_for(|| TcpStream::connect(&address).is_ok());
    server
}
